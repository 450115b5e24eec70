"""What must hold on every device: the engine's sums, the bound under TF32, the same noise, rows that no model knows.

Each check gives a figure and the bound that it may not pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from client.training import Protection, private_steps
from fedlora.config import TrainSettings
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.ghost_norms import ROUNDING_IN_PIECES, FactoredGradient, at_least_squares, in_pieces, squares
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from tests.gpu.timed import Box
from tests.privacy.architectures import loaded
from tests.privacy.models import Classifier, Examples, classifier, looped_clipped_sum
from tests.token_examples import token_examples

CLIP = 0.5
Found = tuple[float, float]
"""A figure, and its bound."""


def engine_on(model: torch.nn.Module, examples: int, **changes: Any) -> PrivateEngine:
    values = {"rate": 1.0, "noise_multiplier": 1.0, "clip": CLIP, "steps": 3, "expected_batch": 8.0, **changes}
    return PrivateEngine(model, Mechanism(**values), examples=examples, source=SeededSource(3))


def small(device: str, dtype: torch.dtype, count: int = 9) -> tuple[Classifier, Examples]:
    examples = Examples(count)
    examples.tokens_nt, examples.labels_n = examples.tokens_nt.to(device), examples.labels_n.to(device)
    return classifier(dtype=dtype).to(device), examples


def difference(left: dict[Any, torch.Tensor], right: dict[Any, torch.Tensor]) -> float:
    both = [(left[p].double() - right[p].double()).norm() for p in left], [right[p].double().norm() for p in left]
    return float(torch.stack(both[0]).norm() / torch.stack(both[1]).norm())


def sums(device: str, dtype: torch.dtype, bound: float) -> Found:
    """Clipped sums against a loop over examples."""
    model, examples = small(device, dtype)
    everyone = torch.arange(9)
    expected = looped_clipped_sum(model, examples.loss(model), everyone, clip=CLIP)
    with engine_on(model, 9) as engine:
        return difference(engine.clipped_sum(everyone, examples.loss(model)), expected), bound


def one_example_under_tf32(device: str) -> Found:
    """The most that one example moves the sum by, of C, in a process that allows TF32."""
    model, examples = small(device, torch.float32, 9)
    before, most = torch.get_float32_matmul_precision(), 0.0
    torch.set_float32_matmul_precision("high")
    try:
        with engine_on(model, 9) as engine:
            everyone = engine.clipped_sum(torch.arange(9), examples.loss(model))
            for gone in range(9):
                rest = torch.tensor([i for i in range(9) if i != gone])
                fewer = engine.clipped_sum(rest, examples.loss(model))
                moved = torch.cat([(everyone[p] - fewer[p]).flatten() for p in everyone]).norm()
                most = max(most, float(moved) / CLIP)
    finally:
        torch.set_float32_matmul_precision(before)
    return most, 1 + 1e-5


def norms_in_pieces(device: str) -> Found:
    """How far a norm in float32 is below the exact one, relative; 0 where it is not."""
    draw = torch.Generator().manual_seed(0)
    g, x = (torch.randn(4, 16, side, generator=draw).to(device) for side in (512, 768))
    exact = squares(FactoredGradient(g.double(), x.double()).formed())
    found = at_least_squares(FactoredGradient(g, x), in_pieces, ROUNDING_IN_PIECES)
    return float(((exact - found) / exact).clamp_min(0).max()), 0.0


def noise(device: str) -> Found:
    """The released gradient of one step against the CPU's, of the same stream."""

    def released(on: str) -> torch.Tensor:
        model, examples = small(on, torch.float64)
        with engine_on(model, 9, steps=1) as engine:
            engine.step(examples.loss(model))
            found = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
        return found

    expected = released("cpu")
    return float((released(device) - expected).norm() / expected.norm()), 1e-5


def hostile_rows(device: str) -> Found:
    """A token that the model does not know, in private steps: how many steps fail."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        model, parameters, on = loaded("bert", Path(folder) / "bert", device=device)
        ids = [torch.tensor([2, 5, 7, 3]), torch.tensor([2, 10**6, 3]), torch.tensor([2, 9, 8, 6, 3])]
        examples = token_examples(ids, torch.tensor([0, 1, 1]), 0)
        mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=2, expected_batch=3.0)
        protection, train = Protection(mechanism, SeededSource(1)), TrainSettings(optimizer="sgd", batch_size=3)
        with private_steps(model, examples, train, on=on, protection=protection) as (engine, loss):
            for _ in range(2):
                engine.step(loss)
                torch.optim.SGD(parameters, lr=0.1).step()
                failed += not all(bool(p.isfinite().all()) for p in parameters)
    return float(failed), 0.0


CHECKS: dict[str, Callable[[str], Found]] = {
    "clipped sums in float64, from a loop": lambda device: sums(device, torch.float64, 1e-12),
    "clipped sums in float32, from a loop": lambda device: sums(device, torch.float32, 1e-5),
    "one example in the sum, of C, TF32 allowed": one_example_under_tf32,
    "norms in float32, below the exact": norms_in_pieces,
    "released gradient, from the CPU's": noise,
    "private steps that an unknown token spoils": hostile_rows,
}


def checks(device: str, size: str, box: Box) -> Iterator[dict[str, Any]]:
    for name, check in CHECKS.items():
        figure, bound = check(device)
        yield {"what": name, "figure": figure, "at most": bound, "holds": figure <= bound}

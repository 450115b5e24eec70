"""A private step against PEFT's non-private step: CPU time, matmul FLOPs, peak memory; Opacus beside it.

    python -m tests.bench.bench_privacy [--only attention-64]

MiniLM, batch 32, LoRA r = 8, one thread. Contenders take turns step by step, so that a busy machine disturbs all
alike; a figure is the median of the per-turn ratios to PEFT's step. The step includes optimiser, sampling and noise.
Private steps train without dropout and PEFT's with the model's own: time is given against both, PEFT's step as it is
and the same without dropout. All texts have one length here; what padding costs is `bench_padding`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fedlora.adapters import inject, set_trainable
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.base import load_base
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource
from fedlora.tasks.sequence_classification import logits_of
from fedlora.updates import Factor

PEFT, UNDROPPED = "PEFT, not private", "PEFT, no dropout"
BATCH, RANK, CLASSES = 32, 8, ("a", "b", "c")
AB, B_ONLY, R_ONLY = (
    (Factor.A, Factor.B, Factor.DENSE),
    (Factor.B, Factor.DENSE),
    (Factor.R, Factor.DENSE),
)


class Logits(nn.Module):
    """A classifier as Opacus takes one: ids and mask (n, t) to logits (n, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return logits_of(self.model, {"input_ids": ids, "attention_mask": mask})


@dataclass(frozen=True)
class Setting:
    """One column of the table."""

    targets: str
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.targets}-{self.tokens}"

    def model(self, factors: tuple[Factor, ...]) -> tuple[nn.Module, list[nn.Parameter]]:
        base = load_base(ModelSettings(), CLASSES)
        kind = "lora_xs" if Factor.R in factors else "lora"
        inject(base.model, AdapterSettings(kind=kind, r=RANK, targets=self.targets))
        for name, parameter in base.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        return base.model.train(), set_trainable(base.model, factors)

    def loss(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        stream = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 20_000, (BATCH, self.tokens), generator=stream)
        mask, labels = torch.ones_like(ids), torch.randint(0, 3, (BATCH,), generator=stream)

        logits = Logits(model)

        def per_example(indices: Tensor) -> Tensor:
            return functional.cross_entropy(logits(ids[indices], mask[indices]), labels[indices], reduction="none")

        return per_example


SETTINGS = [Setting(targets, tokens) for targets in ("attention", "all-linear") for tokens in (64, 128)]
Step = Callable[[], None]


def plain(setting: Setting, factors: tuple[Factor, ...] = AB) -> Step:
    """PEFT, not private, with the model's own dropout: what everything is compared with."""
    return stepping(*setting.model(factors), setting)


def without_dropout(setting: Setting) -> Step:
    """The same where nothing is dropped, as in private steps."""
    model, parameters = setting.model(AB)
    return stepping(model.eval(), parameters, setting)


def stepping(model: nn.Module, parameters: list[nn.Parameter], setting: Setting) -> Step:
    optimizer, loss = torch.optim.SGD(parameters, lr=0.01), setting.loss(model)
    everyone = torch.arange(BATCH)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(everyone).mean().backward()
        optimizer.step()

    return step


def private(setting: Setting, factors: tuple[Factor, ...] = AB, *, gradients: str = "fedlora") -> Step:
    """The engine; q = 1 so that every step has the same 32 examples."""
    model, parameters = setting.model(factors)
    optimizer, loss = torch.optim.SGD(parameters, lr=0.01), setting.loss(model)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=10**6, expected_batch=BATCH)
    engine = PrivateEngine(model, mechanism, examples=BATCH, source=SecureSource(), gradients=gradients)
    engine.__enter__()

    def step() -> None:
        engine.step(loss)
        optimizer.step()

    return step


def opacus_ghost(setting: Setting) -> Step:
    """Opacus' fast gradient clipping with ghost norms, with its own optimiser."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    model, parameters = setting.model(AB)
    wrapped = GradSampleModuleFastGradientClipping(
        Logits(model), batch_first=True, loss_reduction="mean", max_grad_norm=1.0, use_ghost_clipping=True, strict=False
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(parameters, lr=0.01), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH
    )
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (BATCH, setting.tokens), generator=stream)
    mask, labels = torch.ones_like(ids), torch.randint(0, 3, (BATCH,), generator=stream)
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), loss_reduction="mean")

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(ids, mask), labels).backward()
        optimizer.step()

    return step


def matmul_flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_bytes(step: Step) -> int:
    """Highest total of live tensor bytes that a step allocates above its start, by torch's own profiler."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    # silent, because the profiler announces itself on stderr
    with silent_stderr(), torch.profiler.profile(profile_memory=True, activities=cpu) as profile:
        step()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def parameter_bytes(setting: Setting) -> int:
    model, _ = setting.model(AB)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def interleaved(steps: dict[str, Step], turns: int) -> dict[str, dict[str, float]]:
    """Median over turns of each contender's CPU seconds over those of both references in the same turn."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns):
        names = list(steps) if turn % 2 == 0 else list(steps)[::-1]
        for name in names:
            started = time.process_time()
            steps[name]()
            taken[name].append(time.process_time() - started)
    return {
        name: {
            reference: statistics.median(mine / theirs for mine, theirs in zip(times, taken[reference], strict=True))
            for reference in (PEFT, UNDROPPED)
        }
        for name, times in taken.items()
    }


def contenders(setting: Setting) -> dict[str, Step]:
    return {
        PEFT: plain(setting),
        UNDROPPED: without_dropout(setting),
        "fedlora private": private(setting),
        "B only": private(setting, B_ONLY),
        "R only": private(setting, R_ONLY),
        "Opacus hooks": private(setting, gradients="opacus"),
        "Opacus ghost": opacus_ghost(setting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[setting.name for setting in SETTINGS], help="one setting instead of four")
    parser.add_argument("--turns", type=int, default=7, help="how often every contender steps")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("bench privacy: ratios to PEFT's non-private step (CPU time, matmul FLOPs, peak memory with parameters);")
    print("undropped: CPU time against PEFT's step without the model's dropout")
    print(f"{'setting':<18} {'contender':<18} {'time':>6} {'undropped':>10} {'FLOPs':>7} {'memory':>7}")
    for setting in SETTINGS if chosen.only is None else [s for s in SETTINGS if s.name == chosen.only]:
        steps = contenders(setting)
        for step in steps.values():
            step()
            step()
        flops = {name: matmul_flops(step) for name, step in steps.items()}
        fixed = parameter_bytes(setting)
        memory = {name: fixed + peak_bytes(step) for name, step in steps.items()}
        ratios = interleaved(steps, chosen.turns)
        for name in steps:
            print(
                f"{setting.name:<18} {name:<18} {ratios[name][PEFT]:>6.2f} {ratios[name][UNDROPPED]:>10.2f} "
                f"{flops[name] / flops[PEFT]:>7.3f} {memory[name] / memory[PEFT]:>7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

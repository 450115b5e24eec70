"""Example-level privacy of the causal-lm task: clipped sums are a loop's, and company changes no example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from client.training import Protection, loss_on, private_steps
from fedlora.adapters import inject, read, set_trainable, write
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.data.examples import Examples, encoded
from fedlora.data.form import MESSAGES
from fedlora.data.row import Row
from fedlora.models.base import Base, autocast, load_base
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.tasks.base import IGNORED
from fedlora.updates import Factor
from tests.chats import save_chat_model, turns
from tests.privacy.models import looped_clipped_sum
from tests.quantised import NEEDS_BITSANDBYTES

CLIP = 0.5
FEW_TOKENS, LONG, SHORT = ("1+1?", "2"), ("what is 10+11?", "that is 21, q.e.d."), ("12+13?", "25")
CHATS = (FEW_TOKENS, LONG, SHORT, ("why?", "because it is so"), ("9+9?", "18, 18, 18"), ("so?", ""))
NO_ANSWER = json.dumps([{"role": "user", "content": "anybody?"}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("chats") / "model")


def settings(folder: str, **more: object) -> ModelSettings:
    return ModelSettings(id=folder, task="causal-lm", max_tokens=48, **more)


def adapted(on: ModelSettings, targets: str) -> Base:
    """A base with an adapter whose every factor has a gradient."""
    base = load_base(on, ())
    inject(base.model, AdapterSettings(r=2, alpha=3.0, targets=targets))
    set_trainable(base.model, (Factor.A, Factor.B))
    stream, start = torch.Generator().manual_seed(0), read(base.model)
    moved = {name: torch.randn(tensor.shape, generator=stream) / 4 for name, tensor in start.tensors().items()}
    write(base.model, start.with_tensors(moved))
    return base


def examples_for(base: Base, on: ModelSettings) -> Examples:
    """Of unlike length, one without a usable answer among them."""
    rows = [Row(MESSAGES, (json.dumps(turns(*chat)),)) for chat in CHATS]
    return encoded([*rows, Row(MESSAGES, (NO_ANSWER,))], (), base.processor, on=on, ignore_unusable=True)


@contextmanager
def steps(base: Base, examples: Examples, on: ModelSettings) -> Iterator[tuple[PrivateEngine, LossPerExample]]:
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=1, expected_batch=6.0)
    protection = Protection(mechanism, SeededSource(0))
    with private_steps(base.model.train(), examples, TrainSettings(), on=on, protection=protection) as found:
        yield found


def off(found: dict[Tensor, Tensor], expected: dict[Tensor, Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    size = max(float(tensor.abs().max()) for tensor in expected.values())
    assert size > 0.01 * CLIP
    return max(float((found[parameter] - expected[parameter]).abs().max()) for parameter in expected) / size


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize(
    ("more", "rounding"),
    [
        ({}, 1e-6),
        ({"gradient_checkpointing": True}, 1e-6),
        ({"load_dtype": "bfloat16"}, 2**-8),
        pytest.param({"load_dtype": "nf4"}, 1e-6, marks=NEEDS_BITSANDBYTES),
        pytest.param({"load_dtype": "int8"}, 1e-6, marks=NEEDS_BITSANDBYTES),
    ],
    ids=["float32", "checkpointing", "bfloat16", "nf4", "int8"],
)
def test_clipped_sums_of_conversations_are_those_of_a_loop_over_examples(folder, targets, more, rounding):
    """In bfloat16 each example's gradient is a product in bfloat16: what is compared is its rounding."""
    on = settings(folder, **more)
    base = adapted(on, targets)
    examples = examples_for(base, on)
    assert len(set(examples.shapes(most=on.max_tokens))) >= 3, "padded to several lengths"
    with steps(base, examples, on) as (engine, loss):
        found = engine.clipped_sum(torch.arange(len(examples)), loss)
    expected = looped_clipped_sum(base.model, loss_on(base.model, examples, on), torch.arange(len(examples)), CLIP)
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    assert off(found, expected) <= rounding


def test_a_row_without_an_answer_moves_no_sum_and_a_sum_of_nothing_else_is_zero(folder):
    on = settings(folder)
    base = adapted(on, "attention")
    examples = examples_for(base, on)
    last = len(examples) - 1
    assert (examples.items[last]["labels"] == IGNORED).all()
    with steps(base, examples, on) as (engine, loss):
        with_it = engine.clipped_sum(torch.arange(last + 1), loss)
        without = engine.clipped_sum(torch.arange(last), loss)
        alone = engine.clipped_sum(torch.tensor([last]), loss)
    assert all(torch.equal(with_it[parameter], without[parameter]) for parameter in without)
    assert not any(tensor.any() for tensor in alone.values())


@pytest.mark.parametrize("more", [{}, {"load_dtype": "bfloat16"}], ids=["float32", "bfloat16"])
def test_the_loss_of_an_example_does_not_depend_on_who_is_beside_it_whatever_their_answers(folder, more):
    """Bit for bit in batches of one shape, with answers of any number of tokens beside it; to 1e-6 in padding."""
    on = settings(folder, **more)
    base = adapted(on, "attention")
    examples = examples_for(base, on)

    def losses(*chosen: int, length: int) -> Tensor:
        with autocast(on), torch.no_grad():
            return examples.task.losses(base.model, examples.batch(chosen, length=length))

    for first in range(len(CHATS)):
        found = {float(losses(first, other, length=48)[0]) for other in range(len(examples))}
        assert len(found) == 1
        for chosen in ((first,), (first, 3), range(first, len(examples))):
            own = float(losses(*chosen, length=examples.lengths[first])[0])
            assert own == pytest.approx(*found, rel=2**-8 if more else 1e-6)

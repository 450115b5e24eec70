"""An adapter made by somebody hostile: finite on every real token, overflowing on padding from position 14 on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from client.steps.rehearsed import rehearse_privately
from client.training import Protection, private_steps
from fedlora.adapters import initial_adapter, set_trainable, write
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.data.examples import Examples, concatenate, encoded
from fedlora.data.form import Columns
from fedlora.data.rows import read_rows
from fedlora.models.base import load_processor
from fedlora.models.loaded_model import loaded_model
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.sensitivity import sensitivity
from fedlora.tasks.registry import task_named
from fedlora.updates import Factor
from tests.token_examples import labels_n, token_examples, token_ids

MODEL = ModelSettings(max_tokens=16)
ADAPTER = AdapterSettings(r=2, alpha=2, targets="all-linear", layers=(0,))
MECHANISM = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=20)
TRAIN = TrainSettings(optimizer="sgd", lr=0.1)


def direction_of_padding(model: nn.Module, public: Examples) -> Tensor:
    """A score above 0 for late padding and below 0 for all else, at the first layer's feed-forward input."""
    seen: list[Tensor] = []
    hook = model.encoder.layer[0].intermediate.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    late: list[Tensor] = []
    with torch.no_grad():
        for length in (2, 5, 9, 12, 14, 16):
            rows = [row[:length] for row in token_ids(public)[:60]]
            batch = token_examples(rows, torch.zeros(60, dtype=torch.long), public.padding).batch(range(60), length=16)
            model(batch["input_ids"], batch["attention_mask"])
            late.append(~batch["attention_mask"].bool() & (torch.arange(16) >= 14))
    hook.remove()
    x, is_late = torch.cat(seen).flatten(0, 1).double(), torch.cat(late).flatten()
    y = torch.where(is_late, 1.0, -1.0).double()
    weights = torch.where(is_late, 1 / is_late.sum(), 1 / (~is_late).sum()).double().sqrt()
    score = torch.linalg.lstsq(x * weights[:, None], y * weights).solution
    for _ in range(400):
        wrong = y * (x @ score) < 0.05
        if not bool(wrong.any()):
            break
        score += 0.02 * (x[wrong] * y[wrong, None]).mean(0)
    return score.float()


@pytest.fixture(scope="module")
def attack() -> tuple[nn.Module, Examples]:
    """The model with that adapter, and 21 texts: the first of 16 tokens, the others of 14."""
    rows = list(read_rows("airlines", Columns()))
    labels = tuple(sorted({row.label for row in rows}))
    model = loaded_model(MODEL, ADAPTER, labels).model.eval()
    every = encoded(rows[:400], labels, load_processor(MODEL), on=ModelSettings(max_tokens=16))
    adapter = initial_adapter(model, ADAPTER, seed=0)
    write(model, adapter)
    tensors = dict(adapter.tensors())
    score = direction_of_padding(model, every.take(range(200, 400)))
    first = next(name[:-2] for name in tensors if name.endswith("intermediate.dense.A"))
    second = next(name[:-2] for name in tensors if name.endswith("0.output.dense.A"))
    crafted = {name: torch.zeros_like(tensors[name]) for part in (first, second) for name in (f"{part}.A", f"{part}.B")}
    crafted[f"{first}.A"][0] = score
    crafted[f"{first}.B"][7, 0] = 1e22
    crafted[f"{second}.A"][0, 7] = crafted[f"{second}.B"][3, 0] = 1e10
    write(model, adapter.with_tensors({**tensors, **crafted}))
    set_trainable(model, (Factor.DENSE,))
    longest = next(index for index, row in enumerate(token_ids(every)) if len(row) == 16)
    others = [index for index, row in enumerate(token_ids(every)[:200]) if len(row) >= 14 and index != longest][:20]
    short = token_examples([token_ids(every)[i][:14] for i in others], labels_n(every)[others], every.padding)
    return model, concatenate([every.take([longest]), short])


def test_padding_to_the_longest_text_of_a_batch_gave_the_long_one_away(attack):
    """The slow twin of what was wrong: without the long text nobody is padded, with it everybody counts as zero."""
    model, examples = attack

    def to_the_longest(indices: Tensor) -> Tensor:
        return task_named(MODEL.task).losses(model, examples.batch(indices.tolist()))

    with PrivateEngine(model, MECHANISM, examples=21, source=SeededSource(0)) as engine:
        engine._uncoupled = engine._rehearsed = True
        assert sensitivity(engine, to_the_longest, torch.arange(21), leaving_out=(0,)).largest > 3


def test_a_public_length_leaves_nothing_to_see(attack):
    model, examples = attack
    with private_steps(model, examples, TRAIN, on=MODEL, protection=Protection(MECHANISM, SeededSource(0))) as (
        engine,
        loss,
    ):
        found = sensitivity(engine, loss, torch.arange(21), leaving_out=(0, 1))
    assert found.largest <= 1 + 1e-4


def test_such_an_adapter_is_refused_before_a_charge(attack):
    model, examples = attack
    parameters = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(Refusal, match="not finite"):
        rehearse_privately(model, parameters, TRAIN, on=MODEL, padding=examples.padding)

"""Packed rows: no text sees another, and the gradient of a step is that of the texts by themselves."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PretrainedConfig

from client.steps.packing import require_exact_packing
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.training import Protection, accumulate, train_adapter_privately
from fedlora.adapters import inject, read, set_trainable, write
from fedlora.adapters.live import parameters_of
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.data.examples import Examples
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.settings import SettingsError
from fedlora.tasks.answers import hidden_of, item_of
from fedlora.tasks.base import IGNORED
from fedlora.tasks.inputs.packed import rows_of
from fedlora.tasks.registry import task_named
from fedlora.updates import Factor
from tests.chats import chat_recipe, save_chat_model, save_questions
from tests.federations import run
from tests.privacy.architectures import CONFIGS, MORE

TASK = task_named("causal-lm")
ON = ModelSettings(id="x", task="causal-lm", max_tokens=16)
SLIDING = Gemma3TextConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=24,
    vocab_size=60, sliding_window=4, layer_types=["sliding_attention", "full_attention"], max_position_embeddings=32,
)  # fmt: skip
LENGTHS = (9, 4, 12, 1, 7, 16, 5)


def texts(seed: int = 0) -> Examples:
    """Of unlike length; of one there is nothing to learn."""
    stream = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, 60, (length,), generator=stream).tolist() for length in LENGTHS]
    return Examples([item_of(ids, [place >= len(ids) // 3 for place in range(len(ids))]) for ids in drawn], TASK, 0)


def strong(config: PretrainedConfig) -> nn.Module:
    """Weights so large that what attention reads, and from where, decides the losses; nothing is dropped."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.4)
    return model


def gradients(model: nn.Module, dtype: torch.dtype, train: TrainSettings) -> list[Tensor]:
    """Of a step on all texts, by what trains."""
    model.to(dtype)
    live = set_trainable(model, (Factor.A, Factor.B))
    accumulate(model, texts(), range(len(LENGTHS)), train, on=ON)
    found = [parameter.grad.clone() for parameter in live]
    model.zero_grad()
    return found


def adapted(config: PretrainedConfig) -> nn.Module:
    model = strong(config)
    inject(model, AdapterSettings(r=2, alpha=3.0, targets="all-linear"))
    start, stream = read(model), torch.Generator().manual_seed(0)
    moved = {name: torch.randn(tensor.shape, generator=stream) / 4 for name, tensor in start.tensors().items()}
    write(model, start.with_tensors(moved))
    return model


PACKING = {"llama": CONFIGS["llama"], "gpt2": CONFIGS["gpt2"], "qwen2": MORE["qwen2"], "sliding": SLIDING}


@pytest.mark.parametrize("name", PACKING)
def test_the_gradient_of_a_packed_step_is_that_of_the_texts_by_themselves(name):
    model = adapted(PACKING[name])
    require_exact_packing(model, on=ON, padding=0)
    for dtype, rounding in ((torch.float32, 3e-6), (torch.float64, 1e-13)):
        alone = gradients(model, dtype, TrainSettings(microbatch_size=1))
        size = max(float(gradient.abs().max()) for gradient in alone)
        for train in (TrainSettings(packing=True), TrainSettings(packing=True, microbatch_size=3)):
            together = gradients(model, dtype, train)
            off = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
            assert off <= rounding * size


@pytest.mark.parametrize("name", PACKING)
def test_no_bit_of_a_text_depends_on_what_shares_its_row(name):
    model = strong(PACKING[name]).double()
    batch = TASK.pack(texts().items, padding=0)
    own = batch["examples"] == 2
    found = []
    for seed in (1, 2):
        others = torch.randint(3, 60, own.shape, generator=torch.Generator().manual_seed(seed))
        ids = batch["input_ids"].where(own, others)
        with torch.no_grad():
            found.append(hidden_of(model, {"input_ids": ids, "position_ids": batch["position_ids"]}))
    assert torch.equal(found[0][own], found[1][own])
    assert not torch.equal(found[0][~own], found[1][~own])


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_a_model_that_would_mix_them_is_refused_before_it_sees_any_data(name):
    with pytest.raises(SettingsError, match=r"train.packing: \w+ does not compute several texts of one row as"):
        require_exact_packing(strong(MORE[name]), on=ON, padding=0)


@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (1, 1, 1), (40, 1, 1), (9, 9, 9, 9)])
def test_every_text_is_in_one_row_and_there_is_no_more_padding_than_without(lengths):
    rows = rows_of(lengths)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    wide = max(sum(lengths[place] for place in row) for row in rows)
    assert wide <= 2 * max(lengths)
    assert len(rows) * wide <= len(lengths) * max(lengths)


def test_positions_begin_anew_with_every_text_and_padding_is_one_by_itself():
    batch = TASK.pack(texts().items[:3], padding=0)
    assert batch["position_ids"].tolist() == [[*range(12), 0], [*range(9), *range(4)]]
    assert batch["examples"].tolist() == [[2] * 12 + [0], [0] * 9 + [1] * 4]
    assert (batch["labels"][0, 12:] == IGNORED).all()


def test_a_private_step_never_packs_whatever_a_task_says(monkeypatch):
    monkeypatch.delattr(Examples, "packed")
    model = adapted(CONFIGS["llama"])
    set_trainable(model, (Factor.A, Factor.B))
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=7.0)
    pace = Pace(Turn(seed=0, client="a", number=1, rounds=1), frozenset(), {})
    train = TrainSettings(optimizer="sgd", packing=True)
    live, protection = parameters_of(model, (Factor.A, Factor.B)), Protection(mechanism, SeededSource(0))
    steps = train_adapter_privately(model, live, texts(), train, on=ON, protection=protection, pace=pace)
    assert steps.loss is not None


def test_a_run_with_packing_is_the_run_without(tmp_path):
    model, source = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    for name, more in (("plain", ()), ("packed", ("train.packing=true",))):
        run(chat_recipe(model, source, "train.optimizer=sgd", "train.lr=0.5", *more), tmp_path / name)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "rounds.jsonl").read_text().splitlines()]
        for name in ("plain", "packed")
    ]
    for plain, packed in zip(*lines, strict=True):
        assert packed["evaluation"]["loss"] == pytest.approx(plain["evaluation"]["loss"], rel=1e-5)

"""LoRA-SB's initialisation: the best rank-r first step, computed once, from public data only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from fedlora.adapters import initial_adapter, inject, read
from fedlora.config import AdapterSettings
from fedlora.settings import SettingsError
from fedlora.updates import LowRank
from server.initial import first_step as module
from server.initial.first_step import gradient_sum, stepped
from tests.federations import run
from tests.token_examples import token_examples

SB = ("strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=gradient")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    file = tmp_path / "public.csv"
    file.write_text("text,label\ngreat crew,good\nlate bag,bad\nlove the flight,good\nrude crew,bad\nodd,unknown\n")
    return file


def layer(m: int, n: int, r: int) -> LowRank:
    return LowRank(torch.zeros(m, r), torch.zeros(r, n), 2.0, torch.zeros(r, r))


def test_the_start_is_the_best_approximation_of_the_step_between_orthonormal_factors():
    step = 0.01 * torch.randn(20, 12, generator=torch.Generator().manual_seed(0)).sign()
    start = stepped(layer(20, 12, 5), step, seed=0)
    U, S, Vh = torch.linalg.svd(step.double(), full_matrices=False)
    assert_close(start.dense(), U[:, :5] * S[:5] @ Vh[:5], rtol=0, atol=1e-6)
    assert_close(start.B_mr.mT @ start.B_mr, torch.eye(5), rtol=0, atol=1e-5)
    assert_close(start.A_rn @ start.A_rn.mT, torch.eye(5), rtol=0, atol=1e-5)


def test_the_randomised_svd_of_large_matrices_finds_the_same_step(monkeypatch):
    draw = torch.Generator().manual_seed(1)
    step = torch.randn(64, 4, generator=draw) @ torch.randn(4, 48, generator=draw)
    exact = stepped(layer(64, 48, 4), step, seed=0)
    monkeypatch.setattr(module, "EXACT_SIDE", 8)
    before = torch.random.get_rng_state()
    assert_close(stepped(layer(64, 48, 4), step, seed=0).dense(), exact.dense(), rtol=0, atol=1e-4)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_gpt2"])
def test_the_gradient_is_that_of_the_full_matrices_in_one_orientation(request, recipe, kind):
    model = request.getfixturevalue(kind)
    inject(model, AdapterSettings(kind="lora_xs", r=2))
    shapes = {name: found.shape for name, found in read(model).layers.items()}
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 2, 1])]
    examples = token_examples(ids, torch.tensor([0, 1]), 0)
    gradients = gradient_sum(model, examples, recipe())
    assert {name: tuple(gradient.shape) for name, gradient in gradients.items()} == shapes
    assert all(bool(gradient.any()) for gradient in gradients.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert initial_adapter(model, AdapterSettings(kind="lora_xs", r=2), seed=0).layers.keys() == shapes.keys()


def test_b_and_a_are_computed_once_and_a_resumed_run_needs_no_public_data(recipe, tmp_path, public):
    settings = recipe(*SB, f"adapter.public={{source: {public}, examples: 4}}")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(settings, whole)
    run(settings.model_copy(update={"rounds": settings.rounds.model_copy(update={"count": 1})}), halves)
    first = load_file(halves / "checkpoint.safetensors")
    public.unlink()
    (halves / "config.yaml").write_text((whole / "config.yaml").read_text())
    run(settings, halves, resume=True)
    last = load_file(halves / "checkpoint.safetensors")
    fixed = [name for name in first if name.endswith((".A", ".B"))]
    assert fixed
    assert all(torch.equal(first[name], last[name]) for name in fixed)
    assert json.loads((halves / "rounds.jsonl").read_text().splitlines()[-1])["aggregation_error"] < 1e-6


def test_no_public_row_of_the_runs_classes_is_refused(recipe, tmp_path, public):
    public.write_text("text,label\nodd,unknown\n")
    with pytest.raises(SettingsError, match=r"adapter\.public has no row"):
        run(recipe(*SB, f"adapter.public={{source: {public}}}"), tmp_path / "run")


def test_a_gradient_start_without_a_core_or_public_data_is_refused(recipe):
    with pytest.raises(SettingsError, match="kind: lora_xs and"):
        recipe("adapter.init=gradient")

"""Whole runs on a base of 4 bits (QLoRA): they learn, go on, and say which base their adapter belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from fedlora.exports.source import source_of
from fedlora.results.opened import open_result
from server.record.records import ClientAnswered
from simulations.run import prepare
from tests.chats import chat_recipe, save_chat_model, save_questions
from tests.exported import distance, names_of_its_readme
from tests.federations import run
from tests.fedlora.exports.command import export
from tests.quantised import NEEDS_BITSANDBYTES

pytestmark = NEEDS_BITSANDBYTES
IDS = torch.tensor([[1, 5, 9, 7, 30, 2], [3, 8, 8, 12, 4, 6]])
PRIVATE = ("privacy.epsilon=8", "privacy.delta=1e-3", "train.optimizer=sgd", "train.lr=0.5")


class KilledError(Exception):
    """The coordinator's process has ended."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("quantised")
    wide = 128  # bitsandbytes' own product wants whole blocks of 64 in every row on a CPU with bfloat16
    return save_chat_model(folder / "model", hidden=wide), save_questions(folder / "questions.jsonl")


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def in_round_2(event) -> None:
    if isinstance(event, ClientAnswered) and event.round == 2:
        raise KilledError


@pytest.mark.parametrize("strategy", ["fedit", "fedsvd"])
def test_a_federation_learns_on_4_bits_and_goes_on_to_the_same_bits(place, tmp_path, strategy):
    recipe = chat_recipe(*place, f"strategy.name={strategy}", "adapter.init=orthonormal", "model.load_dtype=nf4")
    summary = run(recipe, tmp_path / "whole")
    assert summary["loss"] < json.loads((tmp_path / "whole" / "before.json").read_text())["loss"]
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "killed", watch=in_round_2)
    run(recipe, tmp_path / "killed", resume=True)
    assert adapter_bytes(tmp_path / "killed") == adapter_bytes(tmp_path / "whole")


@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_private_rounds_go_through_the_rehearsal_and_every_check_of_frozen_weights(place, tmp_path, load_dtype):
    summary = run(chat_recipe(*place, *PRIVATE, f"model.load_dtype={load_dtype}"), tmp_path / "run")
    assert 0 < summary["loss"] < 20


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_an_export_loads_as_its_readme_says_and_merges_into_floats_only(place, tmp_path, load_dtype):
    recipe = chat_recipe(*place, f"model.load_dtype={load_dtype}")
    simulation = prepare(recipe)
    run(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "adapter"
    named = source_of(folder, base=place[0]).about.base
    assert (named.load_dtype, named.fingerprint) == (load_dtype, simulation.loaded_model.base.fingerprint)
    said = (folder / "README.md").read_text()
    assert f"quantised to {'4' if load_dtype == 'nf4' else '8'} bits ({load_dtype}: bitsandbytes" in said
    served = logits(open_result(folder, base=place[0]).model)
    pasted = names_of_its_readme(folder, base=place[0])[0]["model"]
    assert distance(logits(pasted), served) <= 0.02, "bitsandbytes' own products round inputs too"
    export(folder, "--kind", "merged", "--out", tmp_path / "merged", "--base", place[0])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    assert distance(logits(merged), served) <= 1e-5
    assert f"held its base in {load_dtype}" in (tmp_path / "merged" / "README.md").read_text()

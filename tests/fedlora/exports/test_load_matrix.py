"""Every strategy's adapter folder means the same to every program that reads it: the served model's logits."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from strategies.registry import STRATEGIES
from tests.exported import distance
from tests.fedlora.exports.language_model import IDS, Trained, plain, save_base, trained, with_ranks
from tests.fedlora.exports.readers import READERS, RefusedError, llama_cpp, ollama, served_by, vllm

OPTIMISED = {"server_optimizer": {"name": "fedadam", "lr": 0.1}}
UNEQUAL = "unequal ranks"
CASES = (*sorted(STRATEGIES), "fedit, server optimiser", UNEQUAL)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "tiny-llama")


def case_of(base: str, name: str) -> Trained:
    if name == UNEQUAL:
        return with_ranks(base, (1, 3, 5, 0))
    strategy, _, optimised = name.partition(", ")
    return trained(base, strategy, **(OPTIMISED if optimised else {}))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_served_logits_come_out_of_peft_and_of_the_rules_of_vllm_llama_cpp_and_ollama(base, tmp_path, name):
    """Compared is what the adapter changes, to a thousandth of it."""
    run = case_of(base, name)
    folder, untrained = run.export(tmp_path / "adapter"), plain(base)(IDS).logits
    changed = run.served() - untrained
    assert distance(untrained + changed, untrained) > 1e-2
    found = {"peft": PeftModel.from_pretrained(plain(base), str(folder)).eval()(IDS).logits}
    found |= {reader: served_by(plain(base), read(folder))(IDS).logits for reader, read in READERS.items()}
    off = {reader: distance(logits - untrained, changed) for reader, logits in found.items()}
    assert max(off.values()) <= 1e-3, off


@pytest.mark.parametrize("name", CASES)
def test_the_folder_has_one_rank_an_integer_alpha_as_large_and_nothing_that_a_server_refuses(base, tmp_path, name):
    folder = case_of(base, name).export(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] in (8, 16, 32, 64, 128, 256, 320, 512)
    assert config["lora_alpha"] == config["r"]
    assert isinstance(config["lora_alpha"], int)
    assert (config["rank_pattern"], config["alpha_pattern"], config["use_rslora"]) == ({}, {}, False)
    assert config["modules_to_save"] is None
    assert config["task_type"] == "CAUSAL_LM"


@torch.no_grad()
def test_the_rules_tell_the_programs_apart_where_a_folder_is_not_uniform(tmp_path):
    """Ranks 2 and 4 with patterns: PEFT's scale is 1.5 for both; and a fraction as alpha is refused by Ollama."""
    folder = tmp_path / "adapter"
    LoraConfig(
        r=4, lora_alpha=6.0, target_modules=["a", "b"], rank_pattern={"b": 2}, alpha_pattern={"b": 3.0}
    ).save_pretrained(str(folder))  # fmt: skip
    ones = {"a": 4, "b": 2}
    save_file(
        {
            f"base_model.model.{name}.{factor}.weight": torch.ones((5, r) if factor == "lora_B" else (r, 5))
            for name, r in ones.items()
            for factor in ("lora_A", "lora_B")
        },
        folder / "adapter_model.safetensors",
    )
    in_peft = {name: 1.5 * r for name, r in ones.items()}
    assert {name: float(change[0, 0]) / in_peft[name] for name, change in vllm(folder).items()} == {"a": 1, "b": 1}
    assert {name: float(change[0, 0]) / in_peft[name] for name, change in llama_cpp(folder).items()} == {"a": 1, "b": 2}
    with pytest.raises(RefusedError, match="uint32"):
        ollama(folder)

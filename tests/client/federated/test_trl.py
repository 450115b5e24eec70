"""TRL's trainers as clients. TRL is an extra: without it these are skipped, and transformers' own Trainer is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import fedlora.flower
from client.federated.refusals import not_private
from fedlora.federated import federate
from tests.chats import save_chat_model, tokenizer_with, turns
from tests.own_apps import app_by_client, initial_arrays, run_strategy

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'fedlora[trl]'")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

QUIET = {
    "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.02, "save_strategy": "no", "report_to": [],
    "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
}  # fmt: skip


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])


def sft(folder: Path, base: str) -> Any:
    rows = [{"messages": turns(f"{n}+1?", f"{n + 1}")} for n in range(6)]
    return trl.SFTTrainer(
        model=LlamaForCausalLM.from_pretrained(base),
        args=trl.SFTConfig(output_dir=str(folder), max_length=48, **QUIET),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer_with(),
        peft_config=lora(),
    )


def dpo(folder: Path, base: str) -> Any:
    rows = [{"prompt": f"{n}+1?", "chosen": f" {n + 1}", "rejected": " no"} for n in range(6)]
    return trl.DPOTrainer(
        model=LlamaForCausalLM.from_pretrained(base),
        args=trl.DPOConfig(output_dir=str(folder), max_length=48, **QUIET),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer_with(),
        peft_config=lora(),
    )


@pytest.mark.parametrize("make", [sft, dpo])
def test_a_trainer_of_trl_is_a_client_in_two_lines(tmp_path, make):
    base = save_chat_model(tmp_path / "base")
    trainers = [make(tmp_path / str(number), base) for number in (0, 1)]
    app = app_by_client([federate(trainer).app for trainer in trainers])
    arrays = initial_arrays(trainers[0].model)
    strategy = fedlora.flower.FedSVD(fraction_evaluate=0.0, wire={"codec": "int8"})
    result = run_strategy(strategy, app, nodes=2, initial_arrays=arrays)
    before, after = arrays.to_torch_state_dict(), result.arrays.to_torch_state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(after[key], before[key]) for key in before if "lora_B" in key)
    assert "Poisson" in not_private(trainers[0])

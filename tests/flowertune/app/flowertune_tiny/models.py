"""The base model with its adapter, and the learning rate of a round."""

import math

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def cosine_annealing(number, rounds, highest, lowest):
    """The learning rate of round `number`."""
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * number / rounds))


def get_model(config):
    """Without bitsandbytes, which this machine has not."""
    model = AutoModelForCausalLM.from_pretrained(config["model.name"])
    lora = LoraConfig(
        r=config["model.lora.peft-lora-r"],
        lora_alpha=config["model.lora.peft-lora-alpha"],
        lora_dropout=0.075,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)

"""Models by their shapes, with random weights made on the device: speed and memory do not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from fedlora.adapters import inject
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.data.examples import Examples
from fedlora.models.base import Base
from fedlora.models.loaded_model import LoadedModel
from fedlora.tasks.answers import item_of
from fedlora.tasks.registry import task_named

TASK = "causal-lm"


@dataclass(frozen=True)
class Shape:
    """A decoder, how an adapter goes into it, and a step."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    rows: int
    tokens: int
    r: int = 16

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads, intermediate_size=self.inner, vocab_size=self.vocabulary,
            max_position_embeddings=max(self.tokens, 128), tie_word_embeddings=False, use_cache=False,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip

    @property
    def adapter(self) -> AdapterSettings:
        return AdapterSettings(r=self.r, alpha=self.r, targets="all-linear")


SHAPES = {
    "full": (
        Shape("7B", 4096, 32, 32, 32, 11008, 32000, rows=16, tokens=512),
        Shape("135M", 576, 30, 9, 3, 1536, 49152, rows=16, tokens=512),
    ),
    "tiny": (Shape("tiny", 32, 2, 2, 1, 48, 96, rows=4, tokens=16, r=2),),
}


def settings_of(shape: Shape, device: str, load_dtype: str, *, checkpointing: bool = False) -> ModelSettings:
    return ModelSettings(
        id="random", task=TASK, device=device, load_dtype=load_dtype, dtype="bfloat16", max_tokens=shape.tokens,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip


def base_of(shape: Shape, device: str, load_dtype: str) -> nn.Module:
    """Without an adapter. nf4 is quantised from bfloat16, layer by layer, as transformers does it while it reads."""
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
    return (quantised(model, device) if load_dtype == "nf4" else model).eval()


def quantised(model: nn.Module, device: str) -> nn.Module:
    """ImportError without bitsandbytes."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    from fedlora.models.quantised.scheme import settled

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            layer = Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
                device="meta",
            )  # fmt: skip
            held = Params4bit(module.weight.detach().cpu(), requires_grad=False, quant_type="nf4", module=layer)
            layer.weight = held.to(device)
            model.set_submodule(name, layer)
    return settled(model)


def adapted(shape: Shape, device: str, load_dtype: str) -> nn.Module:
    """With its adapter, B away from zero, so that A has gradients too."""
    model = base_of(shape, device, load_dtype)
    inject(model, shape.adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def home_of(shape: Shape, on: ModelSettings) -> LoadedModel:
    """As a site holds it; there is no tokenizer."""
    base = Base(base_of(shape, on.device, on.load_dtype), "random", "", {}, None, 0)
    return LoadedModel(base, shape.adapter, on)


def examples_of(shape: Shape, rows: int, *, seed: int = 0) -> Examples:
    """Rows of one length; all but the first token is learnt."""
    stream = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, shape.vocabulary, (rows, shape.tokens), generator=stream).tolist()
    return Examples([item_of(ids, [False, *[True] * (len(ids) - 1)]) for ids in drawn], task_named(TASK), 0)


def flops_of_a_token(shape: Shape, model: nn.Module, *, checkpointing: bool) -> float:
    """Of products: forward and, for activations, backward through every frozen matrix; an adapter's gradients besides;
    attention over half of the positions; all of the forward pass again where activations are recomputed."""
    layer = 2 * shape.hidden**2 + 2 * shape.hidden**2 * shape.key_heads / shape.heads + 3 * shape.hidden * shape.inner
    frozen = shape.layers * layer + shape.hidden * shape.vocabulary
    adapter = sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" in name)
    attention = 2 * shape.layers * shape.hidden * shape.tokens / 2
    forward = 2 * (frozen + adapter + attention)
    return forward * (2 if checkpointing else 1) + 2 * frozen + 4 * adapter + 4 * attention

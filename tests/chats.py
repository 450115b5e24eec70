"""A federation of questions and answers that fits in a test: a tiny Llama with a chat template, and four clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedlora.config import Recipe, override
from fedlora.settings import parse
from tests.federations import CLIENTS

CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
LETTERS = "\n abcdefghijklmnopqrstuvwxyz0123456789?.,:<>[]QS'"


def tokenizer_with(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token a character, and three special ones."""
    special = ["<p>", "<s>", "<e>", "<u>"]
    words = {word: number for number, word in enumerate([*special, *LETTERS])}
    core = Tokenizer(models.WordLevel(words, unk_token="<u>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.add_special_tokens(special)
    found = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<e>", pad_token="<p>", unk_token="<u>")
    found.chat_template = template
    return found


def save_chat_model(folder: Path, *, template: str | None = CHATML, hidden: int = 16) -> str:
    """Two layers of width `hidden` with random weights; returns the folder."""
    tokenizer = tokenizer_with(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 3 // 2, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def save_questions(path: Path, *, per_client: int = 12) -> str:
    """Sums with their results, as messages; returns the file."""
    pairs = [(f"{n}+{n + number}?", f"{2 * n + number}") for number in range(len(CLIENTS)) for n in range(per_client)]
    lines = [
        json.dumps({"messages": turns(*pair), "client": CLIENTS[index // per_client]})
        for index, pair in enumerate(pairs)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def chat_recipe(model: str, source: str, *overrides: str) -> Recipe:
    """Two quick rounds on four clients."""
    values: dict[str, Any] = {
        "name": "chats",
        "model": {"id": model, "task": "causal-lm", "max_tokens": 40},
        "adapter": {"r": 2, "alpha": 4},
        "data": {"source": source, "format": "messages", "held_out": 6, "test_fraction": 0.2},
        "strategy": {"name": "fedit"},
        "train": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "steps": 2},
        "rounds": {"count": 2, "grace_s": 0.2, "deadline_s": 20.0, "wait_s": 0.2},
    }
    return parse(Recipe, override(values, overrides))

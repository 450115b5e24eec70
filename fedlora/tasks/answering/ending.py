"""Where an answer that a model writes ends: by a token of its own, or where its positions do."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from fedlora.tasks.inputs.learned_text import ASSISTANT, rendered


def ends_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's and the model's own, and what closes a turn of its template."""
    reader: Any = model
    found: set[int] = set()
    for given in (
        tokenizer.eos_token_id,
        getattr(reader.config, "eos_token_id", None),
        getattr(getattr(reader, "generation_config", None), "eos_token_id", None),
    ):
        found |= set(given) if isinstance(given, list) else {given} if given is not None else set()
    closing = closing_of(tokenizer) if tokenizer.chat_template else None
    return frozenset(found if closing is None else {*found, closing})


def closing_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token behind an assistant's turn; None where the template writes none."""
    turns = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "zebra"}]
    try:
        behind = rendered(turns, tokenizer).rpartition("zebra")[2].lstrip()
    except ValueError:
        return None
    token = max((one for one in tokenizer.all_special_tokens if behind.startswith(one)), key=len, default=None)
    return None if token is None else int(tokenizer.convert_tokens_to_ids(token))


def positions_of(model: nn.Module) -> int | None:
    """How many tokens the model reads and writes together; None where it sets no bound."""
    reader: Any = model
    found = getattr(reader.config.get_text_config(), "max_position_embeddings", None)
    return found if found is not None and found > 0 else None

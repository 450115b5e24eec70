"""What a language model is given to go on from: as it was trained on rows of that form, up to where its answer begins.

A conversation ends before its last answer, if the assistant has the last word in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from fedlora.data.form import MESSAGES, PROMPT_AND_COMPLETION
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.answering.ending import positions_of
from fedlora.tasks.inputs.learned_text import ASSISTANT, listed_messages, rendered


def prompt_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids; ValueError, without content, for a row of which no prompt can be made."""
    if row.form == MESSAGES:
        messages = messages_of(row["messages"])
        if messages and messages[-1]["role"] == ASSISTANT:
            messages = messages[:-1]
        if not messages:
            raise ValueError("there is no message to answer")
        return conversation(messages, tokenizer)
    return plain(row["prompt"] if row.form == PROMPT_AND_COMPLETION else row["text"], tokenizer)


def messages_of(cell: str) -> list[dict[str, Any]]:
    """`listed_messages`; what is no JSON is no list of messages either."""
    try:
        return listed_messages(cell)
    except json.JSONDecodeError:
        raise ValueError("messages are a list of objects, and this is not JSON") from None


def conversation(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """By the chat template, which writes every special token itself."""
    ids: list[int] = tokenizer(rendered(messages, tokenizer, opens=True), add_special_tokens=False)["input_ids"]
    return ids


def plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text that goes on: without the end token that some tokenizers put behind every text."""
    ids: list[int] = tokenizer(text)["input_ids"]
    while ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    if not ids:
        raise ValueError("its text has no token")
    return ids


def room_for(model: nn.Module, prompt: Sequence[int], *, most: int) -> int:
    """How many tokens an answer may have: `most`, or what the model's positions leave. ValueError where they leave
    none."""
    positions = positions_of(model)
    left = most if positions is None else min(most, positions - len(prompt))
    if left < 1:
        raise ValueError(f"its prompt has {len(prompt)} tokens, and the model reads {positions} with the answer")
    return left


def require_writing(model: nn.Module, task: str) -> None:
    """SettingsError for a task whose model writes no answers."""
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:  # type: ignore[operator]
        raise SettingsError(
            f"a model of the task {task} writes no answers; `fedlora predict` says what it makes of rows."
        )

"""What a causal language model reads of a row, and which parts of it are learnt: TRL's formats by its own names.

    messages             the tokenizer's chat template; the assistant's turns are learnt, each with its end
    prompt, completion   the prompt is read, the completion is learnt, with the end token
    text                 all of it is learnt, with the end token

What is learnt is what a model is to write by itself: of a template's turn everything behind the words that open it, up
to its end token; the blanks that a template puts behind that are read and not learnt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from fedlora.data.form import MESSAGES, PROMPT_AND_COMPLETION, Form
from fedlora.data.row import Row
from fedlora.settings import SettingsError

ASSISTANT = "assistant"
NO_TEMPLATE = (
    "the tokenizer has no chat template, and the rows are messages; choose a model that was tuned to chat, or rows "
    "with a prompt and a completion (data.format=prompt-completion)."
)


def require_template(form: Form, tokenizer: PreTrainedTokenizerBase) -> None:
    """SettingsError where no text can be made of any row of this form, whatever is in it."""
    if form.nested and not tokenizer.chat_template:
        raise SettingsError(NO_TEMPLATE)


@dataclass(frozen=True)
class LearnedText:
    """A text, and the stretches of it that are learnt: (from, to) in characters."""

    text: str
    learned: tuple[tuple[int, int], ...]
    whole: bool
    """Whether every special token is written in the text already."""


def learned_text(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> LearnedText:
    """ValueError, without content, for a row of which no text can be made."""
    if row.form == MESSAGES:
        return chat(messages_in(row["messages"]), tokenizer, longest=longest)
    end = str(tokenizer.eos_token or "")
    prompt = row["prompt"] if row.form == PROMPT_AND_COMPLETION else ""
    answer = row["completion"] if row.form == PROMPT_AND_COMPLETION else row["text"]
    text = prompt + answer + ("" if end and answer.endswith(end) else end)
    return LearnedText(text, ((len(prompt), len(text)),), whole=False)


def messages_in(cell: str) -> list[dict[str, Any]]:
    """The messages of a cell, one of them the assistant's; ValueError for what is none."""
    found = listed_messages(cell)
    if not any(one["role"] == ASSISTANT for one in found):
        raise ValueError("no message is the assistant's: there is nothing to learn")
    return found


def listed_messages(cell: str) -> list[dict[str, Any]]:
    """The messages of a cell, whoever says them; ValueError for what is none."""
    found = json.loads(cell)
    if not isinstance(found, list) or not all(isinstance(one, dict) and "role" in one for one in found):
        raise ValueError("messages are a list of objects, each with a role and a content")
    return [{name: value for name, value in one.items() if value is not None} for one in found]


def chat(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, longest: int, read: int = 0
) -> LearnedText:
    """The whole conversation, as far as the assistant's last turn. `read`: so many messages are not learnt."""
    turns = [number for number, one in enumerate(messages) if one["role"] == ASSISTANT and number >= read]
    last = turns[:longest][-1]  # a turn has a token at least, so that further ones are cut: each is rendered once more
    text, learned = "", []
    for number, one in enumerate(messages[: last + 1]):
        if number < read or one["role"] != ASSISTANT:
            continue
        opened, closed = rendered(messages[:number], tokenizer, opens=True), rendered(messages[: number + 1], tokenizer)
        if not (opened.startswith(text) and closed.startswith(opened)):
            raise ValueError("the chat template writes earlier turns otherwise once later ones are there")
        turn = closed[len(opened) :].rstrip()
        text = opened + turn
        learned.append((len(opened), len(text)))
    end = str(tokenizer.eos_token or "")
    if end and not text.endswith(end) and not has_own_end(text, tokenizer):
        text += end
        learned[-1] = (learned[-1][0], len(text))
    return LearnedText(text, tuple(learned), whole=True)


def rendered(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, opens: bool = False) -> str:
    """By the chat template; with `opens`, up to where the assistant begins. ValueError where the template refuses."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))
    except Exception as error:
        raise ValueError(f"the chat template refuses the messages ({type(error).__name__})") from None


def has_own_end(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the text ends with a special token: a template may close a turn with another than the end token."""
    return any(text.endswith(token) for token in tokenizer.all_special_tokens)

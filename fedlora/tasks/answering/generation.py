"""Answers that a model writes by itself, greedily, to the questions of rows that a causal language model learns from.

A question is everything before a row's last answer, written as for training: by the chat template, or as it is.
transformers' own `generate` writes the answer; several questions are filled up on their left.

Guarantee: an answer is what plain transformers and PEFT generate from the exported adapter, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.data.form import TEXT
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.answering.ending import ends_of, positions_of
from fedlora.tasks.answering.overlap import exact_match, rouge_l
from fedlora.tasks.inputs.learned_text import learned_text


@dataclass(frozen=True)
class Asked:
    """A question with the answer that its row has."""

    prompt: str
    reference: str
    """Without its end token."""
    whole: bool
    """Whether every special token is written in the prompt already."""


@dataclass(frozen=True)
class Overlap:
    """Means over answers."""

    exact_match: float
    rouge_l: float
    examples: int


def asked_of(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> Asked:
    """ValueError, without content, for a row that asks nothing. Of a conversation no more turns are read than `longest`
    tokens can have."""
    if row.form == TEXT:
        raise ValueError("a text asks nothing")
    found = learned_text(row, tokenizer, longest=longest)
    first, last = found.learned[-1]
    reference = found.text[first:last]
    for token in tokenizer.all_special_tokens:
        reference = reference.removesuffix(token)
    return Asked(found.text[:first], reference, found.whole)


@torch.inference_mode()
def generate_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    *,
    longest: int,
    max_new_tokens: int,
    at_once: int = 8,
) -> list[str]:
    """An answer to each, of at most `max_new_tokens` tokens, by the model as it stands; `at_once` of them together.

    A prompt of more than `longest` tokens is cut at its beginning. SettingsError where the model has not that many
    positions.
    """
    require_room(model, longest=longest, max_new_tokens=max_new_tokens)
    model.eval()
    prompts = [
        tokenizer(one.prompt, add_special_tokens=not one.whole)["input_ids"][-longest:] or [padding_of(tokenizer)]
        for one in asked
    ]
    order = sorted(range(len(asked)), key=lambda index: len(prompts[index]))
    answers = [""] * len(asked)
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        written = continued([prompts[index] for index in chosen], model, tokenizer, max_new_tokens=max_new_tokens)
        for index, ids in zip(chosen, written, strict=True):
            answers[index] = tokenizer.decode(ids, skip_special_tokens=True)
    return answers


def overlap_of(answers: Sequence[str], asked: Sequence[Asked]) -> Overlap:
    """ValueError where there are none."""
    pairs = [(answer, one.reference) for answer, one in zip(answers, asked, strict=True)]
    if not pairs:
        raise ValueError("there is no answer to compare.")
    return Overlap(
        sum(exact_match(*pair) for pair in pairs) / len(pairs),
        sum(rouge_l(*pair) for pair in pairs) / len(pairs),
        len(pairs),
    )


def require_room(model: nn.Module, *, longest: int, max_new_tokens: int) -> None:
    """SettingsError where the model cannot read a prompt of `longest` tokens and what it writes behind it."""
    positions = positions_of(model)
    if positions is not None and positions < longest + max_new_tokens:
        raise SettingsError(
            f"model.max_tokens={longest} and {max_new_tokens} new tokens are more than the {positions} positions of "
            f"{type(model).__name__}; lower either."
        )


def continued(
    prompts: Sequence[Sequence[int]], model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int
) -> list[list[int]]:
    """What the model writes behind each, as far as the first special token."""
    writer: Any = model
    longest, padding = max(map(len, prompts)), padding_of(tokenizer)
    ids = torch.tensor([[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    device = next(model.parameters()).device
    written: Tensor = writer.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=padding,
        eos_token_id=sorted(ends_of(model, tokenizer)),
    )
    special = set(tokenizer.all_special_ids)
    return [up_to_first(row[longest:].tolist(), special) for row in written]


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def up_to_first(ids: Sequence[int], special: set[int]) -> list[int]:
    """
    >>> up_to_first([5, 6, 2, 7], {2})
    [5, 6]
    """
    end = next((place for place, token in enumerate(ids) if token in special), len(ids))
    return list(ids[:end])

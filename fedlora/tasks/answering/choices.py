"""The log-probability of every choice of a question, exactly and without generation: `acc` and `acc_norm` of
lm-evaluation-harness 0.4.

    acc         the largest Σ ln p(x_t | prompt, x_<t) over a choice's tokens is the answer's
    acc_norm    the largest of these sums by a choice's characters is

As there, blanks at the prompt's end belong to the choices, no end token is scored, the prompt is cut at its beginning
where both are too long, and of equal scores the first counts.
Shapes: n choices of all questions of a batch, t tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.data.row import Row
from fedlora.tasks.answering.token_loss import token_nats
from fedlora.tasks.answers import head_of, item_of, learned_tokens
from fedlora.tasks.base import IGNORED, Batch, Item
from fedlora.tasks.inputs.by_itself import by_itself
from fedlora.tasks.inputs.learned_text import listed_messages, rendered
from fedlora.tasks.inputs.tokens import filled, padded

MOST_CHOICES = 64


@dataclass(frozen=True)
class Question:
    """A row: what stands before every choice, and the choices."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    """The number of the right one, from 0."""
    whole: bool
    """Whether every special token is written in the prompt already."""
    answered_from: int
    """How many characters of the prompt are read and not scored."""


@dataclass(frozen=True)
class Scored:
    """A question's choices in their order.

    >>> scored = Scored((-4.0, -6.0), (2, 6), answer=1)
    >>> scored.best, scored.best_by_length
    (0, 1)
    """

    scores: tuple[float, ...]
    """In nats."""
    characters: tuple[int, ...]
    answer: int

    @property
    def best(self) -> int:
        """The choice that `acc` takes."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def best_by_length(self) -> int:
        """The choice that `acc_norm` takes."""
        return max(range(len(self.scores)), key=lambda number: self.scores[number] / self.characters[number])


@torch.inference_mode()
def score_choices(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, longest: int, at_once: int = 16
) -> list[Scored | None]:
    """Every row's choices under the model as it stands; None for a row with a choice that does not fit into `longest`
    tokens with at least one of its prompt. SettingsError with its number for a row that is no question.

    `rows` are of the form `choices` or `choices-messages`; `at_once`: how many choices are computed together.
    """
    model.eval()
    found = by_itself(
        rows, lambda row: choices_item(question_of(row, tokenizer), tokenizer, longest=longest), none, each=False
    )
    device = next(model.parameters()).device
    scored: list[Scored | None] = []
    for item in found:
        batch = {name: tensor.to(device) for name, tensor in choices_batch([item], padding=0).items()}
        scores = tuple(scores_of(model, batch, at_once=at_once).tolist())
        scored.append(Scored(scores, tuple(item["choice_chars"].tolist()), int(item["answer"])) if scores else None)
    return scored


def question_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> Question:
    """ValueError, without content, for a row that is none."""
    choices = json.loads(row["choices"])
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices):
        raise ValueError("choices are a list of texts, none of them empty")
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise ValueError(f"a question has from 2 to {MOST_CHOICES} choices")
    answer = row["answer"].strip()
    if not (answer.isascii() and answer.isdigit() and int(answer) < len(choices)):
        raise ValueError("its answer is not the number of a choice, from 0")
    if "prompt" in row.form.nested:
        prompt = rendered(listed_messages(row["prompt"]), tokenizer, opens=True)
        return Question(prompt, tuple(choices), int(answer), whole=True, answered_from=len(prompt))
    prompt = row["prompt"]
    if not prompt.strip():
        raise ValueError("its prompt is empty")
    return Question(prompt, tuple(choices), int(answer), whole=False, answered_from=len(prompt.rstrip()))


def choices_item(question: Question, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> Item:
    """The choices one behind the other: choice_ids and choice_labels, choice_tokens and choice_chars of each, answer.
    `none` where one of them does not fit."""
    items = [answered(question, choice, tokenizer, longest=longest) for choice in question.choices]
    if any(item is None for item in items):
        return none()
    kept = [item for item in items if item is not None]
    return {
        "choice_ids": torch.cat([item["input_ids"] for item in kept]),
        "choice_labels": torch.cat([item["labels"] for item in kept]),
        "choice_tokens": torch.tensor([len(item["input_ids"]) for item in kept]),
        "choice_chars": torch.tensor([len(choice) for choice in question.choices]),
        "answer": torch.tensor(question.answer),
    }


def none() -> Item:
    """No choices at all."""
    names = ("choice_ids", "choice_labels", "choice_tokens", "choice_chars")
    return {**{name: torch.zeros(0, dtype=torch.long) for name in names}, "answer": torch.tensor(0)}


def answered(
    question: Question, choice: str, tokenizer: PreTrainedTokenizerBase, *, longest: int, end: str = ""
) -> Item | None:
    """The prompt with one choice, of which every token that ends behind the prompt counts; None if it does not fit."""
    encoded = tokenizer(
        question.prompt + choice + end, add_special_tokens=not question.whole, return_offsets_mapping=True
    )
    counts = [last > question.answered_from and last > first for first, last in encoded["offset_mapping"]]
    ids, counts = list(encoded["input_ids"])[-longest:], counts[-longest:]
    if not any(counts) or counts[0]:
        return None
    return item_of(ids, counts)


def choices_batch(items: Sequence[Item], *, padding: int) -> Batch:
    """All choices of these questions as rows: choices_input_ids, choices_attention_mask, choices_labels (n, t)."""
    ids, labels = (
        [row for item in items for row in parts_of(item[name], item["choice_tokens"])]
        for name in ("choice_ids", "choice_labels")
    )
    if not ids:
        nothing = torch.zeros(0, 1, dtype=torch.long)
        return dict.fromkeys(("choices_input_ids", "choices_attention_mask", "choices_labels"), nothing)
    rows = {**padded([{"input_ids": row} for row in ids], padding=padding), "labels": filled(labels, IGNORED)}
    return {f"choices_{name}": tensor for name, tensor in rows.items()}


def parts_of(values: Tensor, lengths: Tensor) -> Sequence[Tensor]:
    """Values that stand one behind the other, in parts of these lengths."""
    parts: Sequence[Tensor] = torch.split(values, lengths.tolist())
    return parts


def scores_of(model: nn.Module, batch: Batch, *, at_once: int) -> Tensor:
    """Of every choice of the batch (n,), in nats, `at_once` of them together."""
    names: tuple[Any, ...] = ("input_ids", "attention_mask", "labels")
    parts = []
    for rows in zip(*(torch.split(batch[f"choices_{name}"], at_once) for name in names), strict=True):
        of_part = dict(zip(names, rows, strict=True))
        if not len(of_part["labels"]):
            continue
        row_m, next_m, hidden_md = learned_tokens(model, of_part)
        nats_m = token_nats(hidden_md, *head_of(model), next_m)
        parts.append(nats_m.new_zeros(len(of_part["labels"])).index_add(0, row_m, -nats_m))
    return torch.cat(parts) if parts else torch.zeros(0)

"""Multiple choice: the right one of several answers is learnt, and the likeliest of them is the model's (`choices.py`).

The loss is that of causal-lm on the right choice with the end token; the prompt is cut at its beginning.
Shapes: b questions, t tokens, n choices of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.data.row import Row
from fedlora.tasks.answering.choices import (
    answered,
    choices_batch,
    choices_item,
    none,
    parts_of,
    question_of,
    scores_of,
)
from fedlora.tasks.answers import OverAnswers, item_of
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.causal_lm import TOKEN_ACCURACY, mean_nats, token_figures
from fedlora.tasks.inputs.tokens import OverTokens, filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.metric import SHARE, Metric
from fedlora.tasks.verdict import Course

CHOICE_ACCURACY = Metric("choice_accuracy", unit=SHARE)
"""The share of questions whose right choice is the likeliest: `acc` of lm-evaluation-harness."""
BY_LENGTH = Metric("choice_length_accuracy", unit=SHARE)
"""The same by nats a character: `acc_norm`."""


class MultipleChoice(OverAnswers):
    """Questions with choices; the model is any that `AutoModelForCausalLM` loads.

    Batches are input_ids, attention_mask, labels (b, t) of the right choice, those of all choices with `choices_`
    before them (n, t), choice_counts and answer (b,), and choices_chars (n,).
    """

    compare_by = CHOICE_ACCURACY
    metrics: tuple[Metric, ...] = (CHOICE_ACCURACY, BY_LENGTH, TOKEN_ACCURACY)

    def item(self, row: Row, processor: PreTrainedTokenizerBase, *, longest: int) -> Item:
        """A question one of whose choices does not fit is ignored."""
        question, end = question_of(row, processor), str(processor.eos_token or "")
        choices = choices_item(question, processor, longest=longest)
        right = answered(question, question.choices[question.answer], processor, longest=longest, end=end)
        return {**right, **choices} if right is not None and len(choices["choice_ids"]) else self.nothing()

    def nothing(self) -> Item:
        return {**item_of([], []), **none()}

    def usable(self, model: nn.Module) -> Callable[[Item], bool]:
        """Whether the model knows every token of all choices."""
        known, vocabulary = super().usable(model), vocabulary_of(model)
        return lambda item: known(item) and bool((item["choice_ids"] < vocabulary).all())

    def ignored(self, item: Item) -> Item:
        """One token, nothing to learn, and nothing to choose from."""
        return {**OverTokens.ignored(self, item), **none()}

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        return {
            **padded(items, padding=padding, length=length),
            "labels": labels,
            **choices_batch(items, padding=padding),
            "choices_chars": torch.cat([item["choice_chars"] for item in items]),
            "choice_counts": torch.tensor([len(item["choice_tokens"]) for item in items]),
            "answer": torch.stack([item["answer"] for item in items]),
        }

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return mean_nats(model, batch)

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        """Shares of questions, beside what causal-lm measures on the right choices."""
        scores_n = scores_of(model, batch, at_once=len(batch["labels"]))
        by_length_n = scores_n / batch["choices_chars"].to(scores_n.device)
        shares = {CHOICE_ACCURACY.name: scores_n, BY_LENGTH.name: by_length_n}
        return {**token_figures(model, batch), **{name: right(found, batch) for name, found in shares.items()}}

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Course:
        return Course(CHOICE_ACCURACY, sum(bool(len(item["choice_tokens"])) for item in items))

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        """Each the right one of two: itself, and itself backwards."""
        texts = [ids.tolist() for ids in invented_texts(vocabulary_of(model), longest=longest, padding=padding)]
        return [chosen_of(ids, ids[::-1]) for ids in texts]


def chosen_of(*choices: Sequence[int], answer: int = 0) -> Item:
    """A question of which only the choices' ids are known, each with its first token as the prompt."""
    items = [item_of(ids, [False, *[True] * (len(ids) - 1)]) for ids in choices]
    return {
        **items[answer],
        "choice_ids": torch.cat([item["input_ids"] for item in items]),
        "choice_labels": torch.cat([item["labels"] for item in items]),
        "choice_tokens": torch.tensor([len(ids) for ids in choices]),
        "choice_chars": torch.tensor([len(ids) for ids in choices]),
        "answer": torch.tensor(answer),
    }


def right(scores_n: Tensor, batch: Batch) -> Mean:
    """The share of questions whose largest score is the answer's, of those that have choices."""
    of_each = zip(parts_of(scores_n, batch["choice_counts"]), batch["answer"].tolist(), strict=True)
    found = [int(scores.argmax()) == answer for scores, answer in of_each if len(scores)]
    return Mean(sum(found), len(found))

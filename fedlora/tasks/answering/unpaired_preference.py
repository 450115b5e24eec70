"""Preference training on answers that stand alone, each of them good or bad: KTO (`kto.py`).

Shapes: b answers, t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.config.preference import PreferenceSettings
from fedlora.data.row import Row
from fedlora.tasks.answering.kto import kto_of
from fedlora.tasks.answers import OverAnswers, item_of, learned_ids_of
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.inputs.pairs import answer_text, is_good
from fedlora.tasks.inputs.tokens import filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.metric import Metric
from fedlora.tasks.preference import (
    REWARD_ACCURACY,
    REWARD_MARGIN,
    figures_of,
    learnt_tokens,
    log_likelihoods,
)
from fedlora.tasks.verdict import Course


class UnpairedPreference(OverAnswers):
    """Answers with a label; the model is any that `AutoModelForCausalLM` loads.

    Batches are input_ids, attention_mask, labels (b, t), good (b,), and reference (b,): ln π_ref.
    """

    compare_by = REWARD_ACCURACY
    metrics: tuple[Metric, ...] = (REWARD_ACCURACY, REWARD_MARGIN)
    takes_reference = True

    def __init__(self, settings: PreferenceSettings | None = None) -> None:
        self.kto = kto_of(settings or PreferenceSettings())

    def item(self, row: Row, processor: PreTrainedTokenizerBase, *, longest: int) -> Item:
        text = answer_text(row, "completion", processor, longest=longest)
        return judged(item_of(*learned_ids_of(text, processor, longest=longest)), good=is_good(row))

    def nothing(self) -> Item:
        return judged(item_of([], []), good=True)

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        batch = {**padded(items, padding=padding, length=length), "labels": labels}
        of_each = [name for name in ("good", "reference") if all(name in item for item in items)]
        return {**batch, **{name: torch.stack([item[name] for item in items]) for name in of_each}}

    def reference(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """reference (b,): what the answers have under the model as it is now."""
        return {"reference": log_likelihoods(model, batch, "")}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """KTO's loss of every answer; zero, without a gradient, for one that is ignored."""
        gains_b = log_likelihoods(model, batch, "") - batch["reference"]
        losses_b: Tensor = self.kto.losses_of(gains_b, batch["good"]).where(learnt_tokens(batch, "") > 0, 0.0)
        return losses_b

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        """The loss, the share of answers on their side of z0, and how far; means over answers."""
        counted_b = learnt_tokens(batch, "") > 0
        gains_n = (log_likelihoods(model, batch, "") - batch["reference"])[counted_b]
        good_n = batch["good"][counted_b]
        return figures_of(self.kto.losses_of(gains_n, good_n), self.kto.margins_of(gains_n, good_n))

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Course:
        return Course(REWARD_ACCURACY, sum(bool((item["labels"] != IGNORED).any()) for item in items))

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        """Good and bad ones in turn, to a reference of zero."""
        texts = invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        items = [item_of(ids.tolist(), [False, *[True] * (len(ids) - 1)]) for ids in texts]
        return [
            {**judged(item, good=number % 2 == 0), "reference": torch.zeros(())} for number, item in enumerate(items)
        ]


def judged(item: Item, *, good: bool) -> Item:
    """An answer with what is thought of it."""
    return {**item, "good": torch.tensor(good)}

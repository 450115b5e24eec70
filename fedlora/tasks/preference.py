"""Preference training: which of two answers to a prompt is the better one, by DPO, ORPO or KTO (`answering/`).

ln π sums over an answer's learnt tokens. π_ref is the base model as it was loaded, with the adapter off: constants of
an example (`reference`), computed before the first step (`fedlora.models.reference`) and never differentiated.

A pair is one example, and what privacy protects is a pair. The model reads its two answers in two passes of b rows, so
that the first dimension is the examples' in every layer: the private engine adds up a layer's uses (its leaves are
shared), and 2 b rows would be 2 b examples to it.
Shapes: b pairs, t tokens, n learnt tokens of one side of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.config.preference import PreferenceSettings
from fedlora.data.row import Row
from fedlora.devices.transfers import read_together
from fedlora.tasks.answering.dpo import Dpo
from fedlora.tasks.answering.kto import kto_of
from fedlora.tasks.answering.objective import Likelihoods, Objective
from fedlora.tasks.answering.orpo import Orpo
from fedlora.tasks.answering.token_loss import token_nats
from fedlora.tasks.answers import OverAnswers, head_of, item_of, learned_ids_of, learned_tokens
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.guessing import Guessing
from fedlora.tasks.inputs.pairs import pair_of_texts
from fedlora.tasks.inputs.tokens import OverTokens, filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.metric import SHARE, Metric
from fedlora.tasks.verdict import Course, Judge

REWARD_ACCURACY = Metric("reward_accuracy", unit=SHARE)
"""The share of pairs whose margin z is above zero: of DPO and KTO, the chosen answer gained more on the base than the
rejected one; of ORPO, it has the larger odds."""
REWARD_MARGIN = Metric("reward_margin", unit="nats")
"""The mean z."""

TIE = 1e-4
"""Nats: a smaller z is rounding (of DPO and KTO every z is 0 before the first step), and counts as half a pair."""

Side = Literal["", "rejected_"]
SIDES: tuple[Side, Side] = ("", "rejected_")
"""What stands before the names of a side's tensors: the chosen answer has those of every task of token ids."""


class Preference(OverAnswers):
    """Pairs of answers; the model is any that `AutoModelForCausalLM` loads.

    Batches are input_ids, attention_mask, labels (b, t), the same with `rejected_` before them, and reference (b, 2):
    ln π_ref of both, where the loss takes it.
    """

    compare_by = REWARD_ACCURACY
    metrics: tuple[Metric, ...] = (REWARD_ACCURACY, REWARD_MARGIN)

    def __init__(self, settings: PreferenceSettings | None = None) -> None:
        self.settings = settings or PreferenceSettings()
        self.objective = objective_of(self.settings)

    @property
    def takes_reference(self) -> bool:
        return self.objective.refers

    def item(self, row: Row, processor: PreTrainedTokenizerBase, *, longest: int) -> Item:
        """A pair whose answers are cut away, or cut to the same tokens, says nothing and is ignored."""
        texts = pair_of_texts(row, processor, longest=longest)
        found = pair_of(*(item_of(*learned_ids_of(text, processor, longest=longest)) for text in texts))
        return found if says_something(found) else self.ignored(found)

    def nothing(self) -> Item:
        return pair_of(item_of([], []), item_of([], []))

    def length(self, item: Item) -> int:
        """Of the longer side."""
        return max(len(item[f"{side}input_ids"]) for side in SIDES)

    def usable(self, model: nn.Module) -> Callable[[Item], bool]:
        """Whether the model knows every token of both."""
        known = super().usable(model)
        return lambda item: all(known(side_of(item, side)) for side in SIDES)

    def ignored(self, item: Item) -> Item:
        """One token on either side, and nothing to learn."""
        return {**item, **pair_of(*(OverTokens.ignored(self, side_of(item, side)) for side in SIDES))}

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        """Both sides are as long as the longest side of any."""
        longest = max(length, *map(self.length, items))
        batch: dict[str, Tensor] = {}
        for side in SIDES:
            own = [side_of(item, side) for item in items]
            labels = filled([item["labels"] for item in own], IGNORED, length=longest)
            of_side = {**padded(own, padding=padding, length=longest), "labels": labels}
            batch |= {f"{side}{name}": tensor for name, tensor in of_side.items()}
        if all("reference" in item for item in items):
            batch["reference"] = torch.stack([item["reference"] for item in items])
        return batch

    def reference(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """reference (b, 2): what both answers have under the model as it is now."""
        return {"reference": torch.stack([log_likelihoods(model, batch, side) for side in SIDES], 1)}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of every pair; zero, without a gradient, for one that is ignored."""
        losses_b: Tensor = self.objective.losses(self.likelihoods(model, batch)).where(counted(batch), 0.0)
        return losses_b

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        """The loss, the share of pairs that are the right way round, and by how much; means over pairs."""
        found, chosen_b = self.likelihoods(model, batch), counted(batch)
        return figures_of(self.objective.losses(found)[chosen_b], self.objective.margins(found)[chosen_b])

    def likelihoods(self, model: nn.Module, batch: Batch) -> Likelihoods:
        chosen_b, rejected_b = (log_likelihoods(model, batch, side) for side in SIDES)
        chosen_tokens_b, rejected_tokens_b = (learnt_tokens(batch, side) for side in SIDES)
        return Likelihoods(chosen_b, rejected_b, chosen_tokens_b, rejected_tokens_b, batch.get("reference"))

    def margins(self, model: nn.Module, batch: Batch) -> Tensor:
        """z of every pair (b,), in nats."""
        return self.objective.margins(self.likelihoods(model, batch))

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Judge:
        """DPO against choosing by chance, which knows ln 2 nats less than everything; others against their start."""
        pairs = sum(map(says_something, items))
        if not pairs:
            raise ValueError("a test set without pairs says nothing of guessing.")
        if not self.objective.starts_at_chance:
            return Course(REWARD_ACCURACY, pairs)
        return Guessing(0.5, pairs, 2, metric=REWARD_ACCURACY, by="choosing by chance")

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        """Both sides of one length, the rejected one backwards; to a reference of zero."""
        texts = [ids.tolist() for ids in invented_texts(vocabulary_of(model), longest=longest, padding=padding)]
        learnt = [[False, *[True] * (len(ids) - 1)] for ids in texts]
        return [
            {**pair_of(item_of(ids, learns), item_of(ids[::-1], learns)), "reference": torch.zeros(2)}
            for ids, learns in zip(texts, learnt, strict=True)
        ]


def objective_of(settings: PreferenceSettings) -> Objective:
    """The loss that a recipe asks for."""
    match settings.loss:
        case "dpo":
            return Dpo(settings.beta, settings.label_smoothing)
        case "orpo":
            return Orpo(settings.beta)
        case "kto":
            return kto_of(settings)


def figures_of(losses_n: Tensor, margins_n: Tensor) -> dict[str, Mean]:
    """Of examples that count: their mean loss, the share of margins above zero, the mean margin."""
    right_n = (margins_n > TIE) + 0.5 * (margins_n.abs() <= TIE)
    of_each = {"loss": losses_n, REWARD_ACCURACY.name: right_n, REWARD_MARGIN.name: margins_n}
    totals = read_together(*(values_n.sum() for values_n in of_each.values()))
    return {name: Mean(total, len(losses_n)) for name, total in zip(of_each, totals, strict=True)}


def pair_of(*sides: Item) -> Item:
    """The chosen and the rejected answer as one example."""
    return {f"{side}{name}": item[name] for side, item in zip(SIDES, sides, strict=True) for name in item}


def side_of(found: Item | Batch, side: Side) -> dict[str, Tensor]:
    """One side's tensors, by the names that they have in every task of token ids."""
    names = ("input_ids", "attention_mask", "labels")
    return {name: found[f"{side}{name}"] for name in names if f"{side}{name}" in found}


def says_something(item: Item) -> bool:
    """Whether both answers have learnt tokens, and not the same ones."""
    learns = all(bool((item[f"{side}labels"] != IGNORED).any()) for side in SIDES)
    return learns and not torch.equal(item["input_ids"], item["rejected_input_ids"])


def counted(batch: Batch) -> Tensor:
    """Which pairs of the batch are not ignored (b,)."""
    chosen_b, rejected_b = (learnt_tokens(batch, side) > 0 for side in SIDES)
    return chosen_b & rejected_b


def learnt_tokens(batch: Batch, side: Side) -> Tensor:
    """How many tokens of every example's answer are learnt (b,)."""
    return (batch[f"{side}labels"] != IGNORED).sum(1)


def log_likelihoods(model: nn.Module, batch: Batch, side: Side) -> Tensor:
    """ln π of every example's answer (b,), in nats: the sum over its learnt tokens."""
    own = side_of(batch, side)
    row_n, next_n, hidden_nd = learned_tokens(model, own)
    nats_n = token_nats(hidden_nd, *head_of(model), next_n)
    return nats_n.new_zeros(len(own["labels"])).index_add(0, row_n, -nats_n)

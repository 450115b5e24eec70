"""Causal language modelling: a token of an answer from everything that stands before it.

    ℓ_i = mean over the learnt tokens t of example i of -ln p(x_t | x_<t)

A mean over the example's own tokens, never over those of the batch, so that nothing couples examples. Figures of a set
are means over its tokens: a long answer weighs more there.
Shapes: b examples, t tokens, d hidden units, v words, n learnt tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedlora.data.row import Row
from fedlora.devices.transfers import read_together
from fedlora.tasks.answering.token_loss import likeliest, token_nats
from fedlora.tasks.answers import OverAnswers, head_of, item_of, learned_ids_of, learned_tokens
from fedlora.tasks.base import IGNORED, Batch, Item, Mean
from fedlora.tasks.inputs.learned_text import learned_text
from fedlora.tasks.inputs.packed import packed
from fedlora.tasks.inputs.tokens import filled, invented_texts, padded, vocabulary_of
from fedlora.tasks.metric import LOSS, SHARE, Metric
from fedlora.tasks.verdict import Course

PERPLEXITY = Metric("perplexity", larger_is_better=False)
"""e to the loss of a learnt token."""
TOKEN_ACCURACY = Metric("token_accuracy", unit=SHARE)


class CausalLM(OverAnswers):
    """Instruction tuning and plain texts; the model is any that `AutoModelForCausalLM` loads.

    Batches are input_ids (b, t), attention_mask (b, t) and labels (b, t), which are the ids of learnt tokens; packed
    ones are those of `fedlora.tasks.inputs.packed`.
    """

    compare_by = LOSS
    metrics: tuple[Metric, ...] = (PERPLEXITY, TOKEN_ACCURACY)

    def item(self, row: Row, processor: PreTrainedTokenizerBase, *, longest: int) -> Item:
        return item_of(*learned_ids(row, processor, longest=longest))

    def nothing(self) -> Item:
        return item_of([], [])

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        labels = filled([item["labels"] for item in items], IGNORED, length=length)
        return {**padded(items, padding=padding, length=length), "labels": labels}

    def pack(self, items: Sequence[Item], *, padding: int) -> Batch:
        return packed(items, padding=padding)

    def learnt_tokens(self, item: Item) -> int:
        return int((item["labels"] != IGNORED).sum())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return mean_nats(model, batch)

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Mean]:
        found = token_figures(model, batch)
        return {**found, PERPLEXITY.name: replace(found["loss"], exponent=True)}

    def judge(self, items: Sequence[Item], labels: Sequence[str]) -> Course:
        return Course(LOSS, len(items))

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        texts = invented_texts(vocabulary_of(model), longest=longest, padding=padding)
        return [item_of(ids.tolist(), [False, *[True] * (len(ids) - 1)]) for ids in texts]


def mean_nats(model: nn.Module, batch: Batch) -> Tensor:
    """Mean over an example's learnt tokens; zero for one that has none."""
    row_n, next_n, hidden_nd = learned_tokens(model, batch)
    nats_n = token_nats(hidden_nd, *head_of(model), next_n)
    counts_b = torch.bincount(row_n, minlength=int(batch.get("count", len(batch["labels"])))).clamp(min=1)
    return nats_n.new_zeros(len(counts_b)).index_add(0, row_n, nats_n) / counts_b


def token_figures(model: nn.Module, batch: Batch) -> dict[str, Mean]:
    """Nats a learnt token, and the share of them that are the likeliest."""
    _, next_n, hidden_nd = learned_tokens(model, batch)
    nats_n = token_nats(hidden_nd, *head_of(model), next_n)
    loss, right = read_together(nats_n.sum(), (likeliest(hidden_nd, *head_of(model)) == next_n).sum())
    return {"loss": Mean(loss, len(next_n)), TOKEN_ACCURACY.name: Mean(right, len(next_n))}


def learned_ids(row: Row, tokenizer: PreTrainedTokenizerBase, *, longest: int) -> tuple[list[int], list[bool]]:
    """The row's tokens, at most `longest`, and which of them lie wholly in what is learnt."""
    return learned_ids_of(learned_text(row, tokenizer, longest=longest), tokenizer, longest=longest)

"""Examples of a text classifier from plain tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedlora.data.examples import Examples
from fedlora.tasks.registry import task_named
from fedlora.tasks.sequence_classification import logits_of

CLASSIFICATION = task_named("sequence-classification")


def token_examples(token_ids: Sequence[Tensor], labels_n: Tensor, padding: int) -> Examples:
    items = [{"input_ids": ids, "labels": label} for ids, label in zip(token_ids, labels_n, strict=True)]
    return Examples(items, CLASSIFICATION, padding)


def token_ids(examples: Examples) -> list[Tensor]:
    return [item["input_ids"] for item in examples.items]


def labels_n(examples: Examples) -> Tensor:
    return torch.stack([item["labels"] for item in examples.items])


def logits(model: nn.Module, ids_bt: Tensor, mask_bt: Tensor | None = None) -> Tensor:
    """(b, classes); without a mask every token is real."""
    mask_bt = torch.ones_like(ids_bt) if mask_bt is None else mask_bt
    return logits_of(model, {"input_ids": ids_bt, "attention_mask": mask_bt})


class Words(nn.Module):
    """As much of a model as says how many tokens it knows."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 1)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

"""Examples: tokenised once, padded to the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedlora.rows import Row
from fedlora.settings import SettingsError
from fedlora.tasks import Batch


@dataclass(frozen=True)
class Examples:
    """Tokenised examples: ids as one flat row, so that a thousand simulated clients can share the tensors."""

    token_ids: Sequence[Tensor]
    labels_n: Tensor
    pad_id: int

    def __len__(self) -> int:
        return len(self.labels_n)

    def batch(self, indices: Sequence[int], *, device: str = "cpu") -> Batch:
        """The examples at `indices`, padded to the longest of them."""
        rows = [self.token_ids[index] for index in indices]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        whole = {"input_ids": input_ids, "attention_mask": mask, "labels": self.labels_n[list(indices)]}
        return {name: tensor.to(device) for name, tensor in whole.items()}

    def evaluation_batches(self, size: int = 64, *, device: str = "cpu") -> Iterator[Batch]:
        """All examples once, the shortest first: batches of one length waste no padding."""
        order = sorted(range(len(self)), key=lambda index: len(self.token_ids[index]))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size], device=device)

    def take(self, indices: Sequence[int]) -> Examples:
        """The chosen examples, sharing their tensors."""
        chosen = list(indices)
        return Examples([self.token_ids[index] for index in chosen], self.labels_n[chosen], self.pad_id)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All parts as one."""
    ids = [row for part in parts for row in part.token_ids]
    return Examples(ids, torch.cat([part.labels_n for part in parts]), parts[0].pad_id)


def tokenise(
    rows: Sequence[Row], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int
) -> Examples:
    """Texts to token ids, once; SettingsError on a class that is not in `labels`."""
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted({row.label for row in rows} - numbers.keys())
    if unknown:
        raise SettingsError(f"the label {unknown[0]!r} is not one of the run's classes: {', '.join(labels)}.")
    encoded = tokenizer([row.text for row in rows], truncation=True, max_length=max_tokens, add_special_tokens=True)
    ids = [torch.tensor(row, dtype=torch.long) for row in encoded["input_ids"]]
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        raise SettingsError("the tokenizer has no padding token and no end token; batches cannot be padded.")
    return Examples(ids, torch.tensor([numbers[row.label] for row in rows], dtype=torch.long), int(pad_id))

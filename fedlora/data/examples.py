"""Examples: encoded once, padded to the batch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedlora.config import ModelSettings
from fedlora.data.row import Row
from fedlora.devices.transfers import carried
from fedlora.tasks.base import IGNORED, Batch, CountsTokens, Item, Packs, Processor, TaskKind
from fedlora.tasks.inputs.padding import public_length
from fedlora.tasks.registry import task_of

log = logging.getLogger(__name__)

COMPANIES = ((0, 1, 2), (3, 4, 5))
"""The examples of `TaskKind.sample` that are computed together."""


Referred = WeakKeyDictionary[nn.Module, dict[tuple[ModelSettings, bool], dict[int, Item]]]


@dataclass(frozen=True)
class Examples:
    """Encoded examples: an item each, so that a thousand simulated clients can share the tensors."""

    items: Sequence[Item]
    task: TaskKind
    padding: int
    """The token that batches are filled up with."""
    referred: Referred = field(default_factory=WeakKeyDictionary, init=False, repr=False, compare=False)
    """Items by index with what their task takes from a base model, as far as asked for (`fedlora.models.reference`)."""

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Sequence[int], *, length: int = 0, device: str = "cpu") -> Batch:
        """The examples at `indices`, padded to the longest of them, and to `length` tokens if that is more."""
        whole = self.task.collate([self.items[index] for index in indices], padding=self.padding, length=length)
        return carried(whole, device)

    def packed(self, indices: Sequence[int], *, device: str = "cpu") -> Batch:
        """The same examples, several of them in a row."""
        assert isinstance(self.task, Packs)
        whole = self.task.pack([self.items[index] for index in indices], padding=self.padding)
        return carried(whole, device)

    @property
    def lengths(self) -> list[int]:
        """In tokens."""
        return [self.task.length(item) for item in self.items]

    @property
    def learnt_tokens(self) -> int | None:
        """Of all examples together; None where the task has none."""
        task = self.task
        return sum(map(task.learnt_tokens, self.items)) if isinstance(task, CountsTokens) else None

    @property
    def measurable(self) -> bool:
        """Whether any example has a loss; of none there is no figure."""
        return any(map(has_loss, self.items))

    def shapes(self, *, most: int) -> list[int]:
        """What every example is padded to under privacy: a function of its own length alone. See `public_length`."""
        return [public_length(length, most=most) for length in self.lengths]

    def evaluation_batches(self, size: int = 64, *, device: str = "cpu") -> Iterator[Batch]:
        """All examples once, the shortest first: batches of one length waste no padding."""
        lengths = self.lengths
        order = sorted(range(len(self)), key=lengths.__getitem__)
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size], device=device)

    def usable_by(self, model: nn.Module) -> Examples:
        """The same examples; those that the model cannot compute at all are ignored (`TaskKind.usable`)."""
        usable = self.task.usable(model)
        if all(map(usable, self.items)):
            return self
        items = [item if usable(item) else self.task.ignored(item) for item in self.items]
        return Examples(items, self.task, self.padding)

    def take(self, indices: Sequence[int]) -> Examples:
        """The chosen examples, sharing their tensors."""
        return Examples([self.items[index] for index in indices], self.task, self.padding)


def has_loss(item: Item) -> bool:
    """Whether anything of the example is learnt, or measured."""
    return bool((item["labels"] != IGNORED).any())


def invented(model: nn.Module, *, on: ModelSettings, padding: int) -> Examples:
    """Examples of nobody, to try a model on before it sees any data (`TaskKind.sample`)."""
    task = task_of(on)
    return Examples(task.sample(model, longest=on.max_tokens, padding=padding), task, padding)


def digest_of(*parts: Examples) -> str:
    """The same for the same items in the same order, on every machine: their numbers first, then what has a length."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"\0{len(part)}\0".encode())
        names = sorted(part.items[0]) if part.items else []
        for name in names:
            if part.items[0][name].ndim == 0:
                digest.update(torch.stack([item[name] for item in part.items]).numpy().tobytes())
        for item in part.items:
            for name in names:
                if item[name].ndim:
                    digest.update(f"\0{len(item[name])}\0".encode() + item[name].numpy().tobytes())
    return digest.hexdigest()


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All parts as one."""
    return Examples([item for part in parts for item in part.items], parts[0].task, parts[0].padding)


def encoded(
    rows: Sequence[Row],
    labels: Sequence[str],
    processor: Processor,
    *,
    on: ModelSettings,
    ignore_unusable: bool = False,
) -> Examples:
    """Rows as the task of `on` reads them, once; SettingsError where that cannot be.

    With `ignore_unusable`, a row that cannot be used stays in and has no loss: a site under privacy must not fail
    because of what one row holds.
    """
    task = task_of(on)
    padding = task.padding(processor)
    items = task.encode(rows, processor, labels, longest=on.max_tokens, padding=padding, each=ignore_unusable)
    ignored = sum(bool((item["labels"] == IGNORED).all()) for item in items)
    if ignored:
        log.warning(
            "%d of %d examples are ignored: a label that the run does not have, an input that cannot be read, or an "
            "answer that model.max_tokens cuts away",
            ignored,
            len(rows),
        )
    return Examples(items, task, padding)

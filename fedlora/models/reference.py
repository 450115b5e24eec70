"""What a task takes from the base model as it was loaded: computed once for each example, and constant from then on.

    rows ─► charge ─► examples ─► referred: one forward pass, nothing trains ─► evaluate, train
                                  (adapters off, W0, no draws)

It is kept with the examples, once for a model and what it computes in, so that a site pays once for every example that
it draws (under privacy for all of them, in its first round); a strategy that moves the base (FedEx-LoRA, FLoRA) finds
the same constants in every round, those of W0.

Guarantee, with `each`: what an example is given depends on it and on W0 alone, up to the last bits (its own public
length, every mask made), and one that the model cannot compute, or that comes out not finite, is ignored: no example
makes a task fail.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlora.adapters.untouched import untouched
from fedlora.config import ModelSettings
from fedlora.data.examples import Examples
from fedlora.devices.lost import device_is_lost
from fedlora.devices.transfers import carried
from fedlora.models.base import autocast
from fedlora.privacy.masks import every_mask_made
from fedlora.privacy.quiet import without_randomness
from fedlora.processes.memory import ran_out_of_memory
from fedlora.tasks.base import Item, TakesReference

log = logging.getLogger(__name__)


def referred(
    model: nn.Module,
    examples: Examples,
    *,
    on: ModelSettings,
    at_once: int,
    each: bool = False,
    only: Iterable[int] | None = None,
) -> Examples:
    """The examples with what their task takes from the base; the same ones where it takes nothing.

    `at_once`: how many are computed together. `each`: see the top of this file; otherwise what fails is raised.
    `only`: the indices that the caller will ask for; the others may have none.
    """
    task = examples.task
    if not isinstance(task, TakesReference) or not task.takes_reference:
        return examples
    kept = examples.referred.setdefault(model, {}).setdefault((on, each), {})
    wanted = range(len(examples)) if only is None else sorted(set(only))
    missing = [index for index in wanted if index not in kept]
    if missing:
        start = (examples.usable_by(model) if each else examples).take(missing)
        with untouched(model), without_randomness(model), every_mask_made(), torch.no_grad():
            for place, item in Pass(model, start, task, on, each).items(at_once):
                kept[missing[place]] = item
    items = [kept.get(index, item) for index, item in enumerate(examples.items)]
    return Examples(items, task, examples.padding)


@dataclass(frozen=True)
class Pass:
    """One pass over examples of a model that is as it was loaded."""

    model: nn.Module
    examples: Examples
    task: TakesReference
    on: ModelSettings
    each: bool

    def items(self, at_once: int) -> Iterator[tuple[int, Item]]:
        """Every index with its item, the shortest first; only items of one public length are computed together."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(self.examples.shapes(most=self.on.max_tokens)):
            by_length[length].append(index)
        for length, indices in sorted(by_length.items()):
            for start in range(0, len(indices), at_once):
                yield from self.together(indices[start : start + at_once], length)

    def together(self, indices: Sequence[int], length: int) -> Iterator[tuple[int, Item]]:
        """What fails with others is tried by itself, and what fails by itself is ignored, where `each` says so."""
        items = [self.examples.items[index] for index in indices]
        found = self.constants_or_none(items, length)
        if found is None and len(items) > 1:
            for index in indices:
                yield from self.together([index], length)
            return
        if found is None:
            items = [self.examples.task.ignored(items[0])]
            found = self.constants(items, 0)  # of its own length: what failed may have been too long
        for place, index in enumerate(indices):
            yield index, self.completed(items[place], {name: values[place] for name, values in found.items()})

    def constants_or_none(self, items: Sequence[Item], length: int) -> dict[str, Tensor] | None:
        """None where they cannot be computed and `each` says that this is no failure, or where memory is there for
        fewer at once. Nothing of the failure stays."""
        try:
            return self.constants(items, length)
        except Exception as error:
            if device_is_lost(error) or not (self.each or (len(items) > 1 and ran_out_of_memory(error))):
                raise
            log.warning("no reference for %d example(s)", len(items), exc_info=len(items) == 1)
        return None

    def constants(self, items: Sequence[Item], length: int) -> dict[str, Tensor]:
        """Of a batch of these (b, ...), on the CPU."""
        batch = self.examples.task.collate(items, padding=self.examples.padding, length=length)
        with autocast(self.on):
            found = self.task.reference(self.model, carried(batch, self.on.device))
        return {name: values.cpu() for name, values in found.items()}

    def completed(self, item: Item, own: Mapping[str, Tensor]) -> Item:
        if self.each and not all(bool(value.isfinite().all()) for value in own.values()):
            return {
                **self.examples.task.ignored(item),
                **{name: torch.zeros_like(value) for name, value in own.items()},
            }
        return {**item, **own}

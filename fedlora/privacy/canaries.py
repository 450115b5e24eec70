"""Canaries: rows of a site's file whose gradient the auditor sets, before clipping.

The engine takes per-example gradients from a source (`engine.BACKENDS`). While `planting` is on, that source is
wrapped: a row that is a canary, known by its tokens, gets its own direction times its own norm in the place of what its
text gave. Sampling, clipping, summing, noise, denominator and optimiser are the product's, and so is all before them:
file, split, tokens, batches. Directions are orthonormal, so that no canary shows in another's score:

    coordinates of everything that trains, in an order drawn at random
    ├ k for every canary: its direction is ±1/√k on them      at most half of all
    ├ a quarter held out: nobody's gradient is there, so what is released there is noise and nothing else
    └ the rest: the other rows' gradients, which are taken out of the first two parts

A row's gradient may be any function of that row, whatever the claim; so this changes none of what is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedlora.privacy import engine
from fedlora.privacy.ghost_norms import Gradients, squares
from fedlora.randomness import generator
from fedlora.settings import SettingsError

REST, HELD_OUT = -1, -2
"""Owners of coordinates that are no canary's."""


@dataclass(frozen=True)
class Canaries:
    """The canaries, and the norm of their gradients before clipping."""

    tokens: Sequence[tuple[int, ...]]
    norms: Sequence[float]
    pad_id: int
    seed: int

    def __len__(self) -> int:
        return len(self.tokens)


class Layout:
    """The owner of each trained coordinate, and the signs of every canary's direction."""

    def __init__(self, sizes: Sequence[int], canaries: int, *, seed: int) -> None:
        values = sum(sizes)
        if canaries < 1 or 2 * canaries > values:
            raise SettingsError(
                f"{canaries} canaries need two values each that train, and there are {values}; use from 1 to "
                f"{values // 2} canaries."
            )
        self.each = values // (2 * canaries)
        stream = generator(seed, "canaries", values)
        order = torch.randperm(values, generator=stream)
        owners = torch.full((values,), REST)
        taken = self.each * canaries
        owners[order[:taken]] = torch.arange(canaries).repeat_interleave(self.each)
        owners[order[taken : taken + max(1, values // 4)]] = HELD_OUT
        signs = torch.randint(0, 2, (values,), generator=stream) * 2.0 - 1.0
        self.owners = torch.split(owners, list(sizes))
        self.directions = torch.split(signs / self.each**0.5, list(sizes))


class Planted:
    """A source of per-example gradients around another one."""

    def __init__(self, inner: engine.PerExampleGradients, canaries: Canaries) -> None:
        self._inner = inner
        self._canaries = canaries
        self._index = {tokens: number for number, tokens in enumerate(canaries.tokens)}
        self._rows: Tensor | None = None
        self._hook: RemovableHandle | None = None
        self.parameters: list[nn.Parameter] = []
        self.names: list[str] = []
        self.layout: Layout | None = None
        self.drawn = 0
        """How many canaries have been planted so far. Not for scores: whether an audit saw its canaries at all."""

    def attach(self, model: nn.Module) -> Sequence[nn.Parameter]:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]
        self.layout = Layout([p.numel() for p in self.parameters], len(self._canaries), seed=self._canaries.seed)
        reader: Any = model
        self._hook = reader.get_input_embeddings().register_forward_pre_hook(self._remember, with_kwargs=True)
        return self._inner.attach(model)

    def detach(self) -> None:
        self._inner.detach()
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def begin(self, batch: int) -> None:
        self._rows = None
        self._inner.begin(batch)

    def end(self) -> dict[Tensor, Gradients]:
        found = self._inner.end()
        if self._rows is None or self.layout is None:
            return found
        own_n = sum((squares(gradients).cpu() for gradients in found.values()), torch.zeros(len(self._rows)))
        who = [
            self._index.get(self._tokens(row)) if own != 0 else None  # a probe asks for one row's gradient alone
            for row, own in zip(self._rows, own_n.tolist(), strict=True)
        ]
        self.drawn += sum(number is not None for number in who)
        for place, parameter in enumerate(self.parameters):
            if parameter in found:
                found[parameter] = self._planted(place, found[parameter], who)
        return found

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._rows = (args[0] if args else kwargs["input"]).detach().cpu()

    def _tokens(self, row: Tensor) -> tuple[int, ...]:
        """A row's tokens without its padding."""
        ids: list[int] = row.tolist()
        while ids and ids[-1] == self._canaries.pad_id:
            ids.pop()
        return tuple(ids)

    def _planted(self, place: int, gradients: Gradients, who: Sequence[int | None]) -> Tensor:
        assert self.layout is not None
        formed = gradients if isinstance(gradients, Tensor) else gradients.formed()
        rows = formed.flatten(1)
        owners, directions = (part[place].to(rows.device) for part in (self.layout.owners, self.layout.directions))
        rows = rows.masked_fill(owners != REST, 0.0)
        for row, number in enumerate(who):
            if number is not None:
                rows[row] = torch.where(owners == number, directions * self._canaries.norms[number], 0.0)
        return rows.view(formed.shape)


@contextmanager
def planting(canaries: Canaries, *, source: Literal["fedlora", "opacus"]) -> Iterator[Planted]:
    """Every engine of this process that takes gradients from `source` gets them with the canaries planted."""
    before: Mapping[str, Any] = engine.BACKENDS
    planted = Planted(before[source](), canaries)
    engine.BACKENDS = {**before, source: lambda: planted}
    try:
        yield planted
    finally:
        engine.BACKENDS = before

"""Faults put into the product while an audit looks: what it is there to find. For tests and `make attack` only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from client import own_rows
from fedlora.privacy import engine
from fedlora.privacy.noise import Stream, poisson_sample, privatise
from fedlora.randomness import generator


def noise_times(factor: float) -> AbstractContextManager[object]:
    """So much of the noise that was charged."""

    def less(total: Tensor, stream: Stream, *, noise_std: float) -> Tensor:
        return privatise(total, stream, noise_std=factor * noise_std)

    return patch.object(engine, "privatise", less)


def no_clipping() -> AbstractContextManager[object]:
    """Every example with a finite gradient counts whole."""
    factors = engine.PrivateEngine._factors
    return patch.object(engine.PrivateEngine, "_factors", lambda self, found: torch.ones_like(factors(self, found)))


def rate_times(factor: float) -> AbstractContextManager[object]:
    """Rows drawn so much more often than was charged."""

    def more(stream: Stream, *, examples: int, rate: float) -> Tensor:
        return poisson_sample(stream, examples=examples, rate=min(1.0, factor * rate))

    return patch.object(engine, "poisson_sample", more)


@contextmanager
def dropout() -> Iterator[None]:
    """Private steps in train mode, as in 0.1.0, and nothing that would notice."""

    @contextmanager
    def in_train_mode(model: nn.Module) -> Iterator[None]:
        modes = [(module, module.training) for module in model.modules()]
        model.train()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    with (
        patch.object(engine, "without_randomness", in_train_mode),
        patch.object(engine, "require_quiet", lambda model: None),
        patch.object(engine.PrivateEngine, "_examples_are_alone", lambda *_: True),
    ):
        yield


def permuted_split() -> AbstractContextManager[object]:
    """The split of 0.1.0: a permutation of the number of rows."""

    def split(texts: Sequence[str], key: bytes, **_: object) -> tuple[list[int], list[int]]:
        order = torch.randperm(len(texts), generator=generator(0, "site", "test")).tolist()
        tests = max(1, len(texts) // 10)
        return sorted(order[tests:]), sorted(order[:tests])

    return patch.object(own_rows, "split", split)


FAULTS: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "noise off": lambda: noise_times(1e-6),
    "σ/10": lambda: noise_times(0.1),
    "clipping off": no_clipping,
    "q x 8": lambda: rate_times(8.0),
    "dropout on": dropout,
    "the old split": permuted_split,
}

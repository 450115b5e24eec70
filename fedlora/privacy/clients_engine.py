"""Private steps of several clients of one process in one pass: `engine`, with a sample and a noise for each client.

    client k    draws its own sample from its own stream ─┐
                                                          ├─► passes of one shape: every row's gradient, one norm, clip
    client l    ...                                       ┘         └─► client k's sum + its own noise, / its own b

Rows are numbered through: client 0's examples, then client 1's. What trains is stacked (`fedlora.adapters.stacked`), so
that a row's gradient is of its own client's parameters and counts in that client's sum alone.

Guarantee: for every client what `engine` says of it, the other clients' examples being some that do not change. What is
refused, and what counts as zero, is found row by row as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlora.adapters.stacked import Stack
from fedlora.privacy import ahead
from fedlora.privacy.engine import PrivateEngine, Sums
from fedlora.privacy.ghost_norms import Gradients
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import Noise, Source, poisson_sample, privatise


@dataclass(frozen=True)
class ClientShare:
    """One client in a group: the mechanism that it was charged for, its noise, how many examples it has."""

    mechanism: Mechanism
    source: Source
    examples: int


class StackedGradients:
    """The gradients of single rows from the leaves of a stack (`PerExampleGradients`)."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def attach(self, model: nn.Module) -> Sequence[nn.Parameter]:
        return list(self._stack.trained.values())

    def detach(self) -> None:
        self._stack.owners.end()

    def begin(self, batch: int) -> None:
        self._stack.owners.begin()

    def end(self) -> dict[Tensor, Gradients]:
        return dict(self._stack.owners.end())


class ClientsEngine(PrivateEngine):
    """`loss_per_example` gets numbers of rows, says by `stack.rows` whose they are, and gives their losses."""

    def __init__(
        self,
        model: nn.Module,
        stack: Stack,
        shares: Sequence[ClientShare],
        *,
        microbatch: int,
        shapes: Sequence[int],
        computes_in: torch.dtype = torch.float32,
    ) -> None:
        """`microbatch`: most rows in a pass, whoever's they are."""
        first = shares[0]
        if any((s.mechanism.clip, s.mechanism.steps) != (first.mechanism.clip, first.mechanism.steps) for s in shares):
            raise ValueError("clients that train together need one clip and one number of steps.")
        super().__init__(
            model, first.mechanism, examples=sum(share.examples for share in shares), source=first.source,
            microbatch=microbatch, shapes=shapes, computes_in=computes_in,
        )  # fmt: skip
        self._stack, self._shares = stack, shares
        self._streams: list[Noise] = []
        self._backend = StackedGradients(stack)

    @property
    def secure(self) -> bool:
        return all(share.source.secure for share in self._shares)

    def _drawing(self) -> ahead.Drawing:
        """A step's samples, with numbers of rows, and each client's stream for its noise. Nothing is drawn ahead."""
        return nullcontext(self._draw() for _ in range(self.mechanism.steps - self._steps))

    def _draw(self) -> ahead.Draws:
        self._streams = [share.source.fresh() for share in self._shares]
        drawn, first = [], 0
        for share, stream in zip(self._shares, self._streams, strict=True):
            drawn.append(first + poisson_sample(stream, examples=share.examples, rate=share.mechanism.rate))
            first += share.examples
        return ahead.Draws(torch.cat(drawn), self._streams[0])

    def _release(self, totals: Sums, stream: Noise) -> None:
        """`stream` is the first client's: all of them are used."""
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)
        for client, own in enumerate(self._streams):
            self._release_one(client, totals, own)

    def _release_one(self, client: int, totals: Sums, stream: Noise) -> None:
        """As `engine` releases what it has of one."""
        mechanism = self._shares[client].mechanism
        flat = torch.cat([totals[parameter][client].flatten() for parameter in self._trained])
        noisy = privatise(flat, stream, noise_std=mechanism.noise_multiplier * mechanism.clip)
        noisy.div_(mechanism.expected_batch)
        for parameter, piece in zip(
            self._trained, torch.split(noisy, [p[client].numel() for p in self._trained]), strict=True
        ):
            assert parameter.grad is not None  # `_take` has just made it
            parameter.grad[client] = piece.view(parameter.shape[1:]).to(parameter.dtype)

    def _summed(self, gradients: Gradients, factors_n: Tensor) -> Tensor:
        """Σ f_n G_n of every client (K, *shape), in float64; products are in the gradients' own precision."""
        assert isinstance(gradients, Tensor)  # `StackedGradients` forms them
        scaled = gradients * factors_n.to(gradients.dtype).view(-1, *[1] * (gradients.dim() - 1))
        total = scaled.new_zeros(self._stack.clients, *scaled.shape[1:], dtype=torch.float64)
        return total.index_add_(0, self._stack.owners.of_row_n, scaled.double())

    def _shape_of_one(self, parameter: Tensor) -> torch.Size:
        return parameter.shape[1:]

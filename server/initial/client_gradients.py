"""LoRA-SB's start of Fed-SB from the clients' own gradients: one round before round 1, under a budget of its own.

The published code sums gradients of the clients' data in clear. Here the sum is one round of what exists already. An
adapter of full width with A = I and B = 0 has g_B = G, the gradient of the whole matrix: one step of SGD with rate 1
on B alone sends -G, clipped example by example and noised by the same engine, charged by the same guard to the same
ledger, as a run of its own with its own ε, and averaged with the same weights. What the coordinator then does with the
mean (a sign, an SVD: `first_step`) is post-processing.

Costs m n numbers a matrix and client, once, each way: for small models. And the sign of a noised gradient is a coin
where the noise is larger than the gradient's entries: with a small ε, random factors may do as well.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

import torch
from flwr.serverapp import Grid

from fedlora.config import Recipe
from fedlora.updates import Adapter, LowRank
from server.initial.first_step import started_from
from server.record.checkpoint import Progress
from server.record.records import Event, Waiting
from server.requests.outgoing import RunConstants
from server.rounds import Rounds, RunContext
from strategies.ffa import FFALoRA


def width_of(adapter: Adapter) -> int:
    """The widest matrix: the rank at which A can be the identity of every one."""
    return max(layer.shape[1] for layer in adapter.layers.values())


def gradient_adapter(adapter: Adapter) -> Adapter:
    """A = I (rows of zeros where a matrix is narrower than the widest), B = 0, s = 1; dense as the run starts."""
    r, layers = width_of(adapter), {}
    for name, layer in adapter.layers.items():
        m, n = layer.shape
        layers[name] = LowRank(torch.zeros(m, r), torch.eye(r, n), 1.0)
    return Adapter(layers, adapter.dense)


def from_clients(
    grid: Grid,
    adapter: Adapter,
    recipe: Recipe,
    *,
    asked: Recipe,
    brief: RunConstants,
    context: RunContext,
) -> tuple[Adapter, Progress]:
    """`adapter` with B, A and R from the clients' summed gradients, and what that round cost.

    `asked`: the round's own recipe (`gradient_recipe`), in whose folder `context` keeps it. A round that was finished
    before a crash is read from there: no client is asked, or charged, twice.
    """
    journal = context.journal
    if journal.has_checkpoint:
        progress = journal.resume()
    else:
        journal.begin()
        state = FFALoRA().init(gradient_adapter(adapter))
        progress = Progress(run=uuid.uuid4().hex, round=0, state=state)
        journal.keep(None, progress)

    def waiting(event: Event) -> None:
        """Whoever watches counts the run's own rounds; that clients are waited for is worth knowing all the same."""
        if isinstance(event, Waiting):
            context.watch(event)

    strategy = FFALoRA(weighting=recipe.strategy.options.get("weighting", "examples"))
    rounds = Rounds(asked, brief, strategy, progress, replace(context, watch=waiting))
    rounds.start(grid)
    progress = rounds.progress
    gradients = {
        name: -layer.B_mr[:, : layer.shape[1]].float() for name, layer in progress.state.adapter.layers.items()
    }
    return started_from(gradients, adapter, recipe), replace(progress, state=FFALoRA().init(adapter))

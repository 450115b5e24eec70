"""A group's steps without privacy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Final

import torch
from torch import Tensor, nn

from client.steps.order import batches_of
from client.steps.turn import Turn
from client.together.draws import DrawnByEach, Place
from client.together.group import Group, GroupStepper
from client.together.passes import Row, cost_of, passes
from client.together.untrained import UntrainedError
from client.training import finite, largest_microbatch, mean_of_steps
from client.work import Steps, Work
from fedlora.data.examples import Examples
from fedlora.models.base import autocast
from fedlora.models.reference import referred
from fedlora.tasks.base import Batch

WORTH: Final = 1.1
"""What clients together must save: less is within what their own weights cost a pass."""

Ended = tuple[Steps, Mapping[str, Tensor]]
"""A client's steps, and what it has trained."""


class Batches:
    """One client's examples, in the order in which its steps take them."""

    def __init__(self, work: Work, turn: Turn) -> None:
        """Before models are stacked: what a task takes from the base is of no client."""
        examples, task = work.parts.train, work.placed
        self.steps = batches_of(task.train, len(examples), turn)
        drawn, size = itertools.chain.from_iterable(self.steps), largest_microbatch(task.train)
        self.examples: Examples = referred(work.home.model, examples, on=task.model, at_once=size, only=drawn)
        self.of_steps: list[tuple[float, Tensor]] = []

    def rows(self, client: int, step: int) -> list[Row]:
        """Those of a step: none once the client has taken all of its own."""
        if step >= len(self.steps):
            return []
        indices, length = self.steps[step], self.examples.task.length
        items = [self.examples.items[index] for index in indices]
        return [Row(client, item, length(item), 1 / len(indices)) for item in items]

    def count(self, step: int, nats: Tensor) -> None:
        self.of_steps.append((len(self.steps[step]) / len(self.steps[0]), nats))

    @property
    def taken(self) -> Steps:
        return Steps(mean_of_steps(self.of_steps))


def train_plainly(group: Group, clients: Sequence[Batches]) -> list[Ended]:
    """What `client.training.train_adapter` makes of each. A client whose own steps are done is read out there: what
    the optimiser does with its place afterwards is nobody's.

    UntrainedError where a loss or gradient is not finite: each by itself knows what to do.
    """
    stack, model = group.stack, group.model
    most = max(len(client.steps) for client in clients)
    stepper = GroupStepper(model, stack.trained, group.train, group.pace, steps=most)
    ended: dict[int, Ended] = {}
    model.train()
    for step in range(most):
        rows = [row for number, client in enumerate(clients) for row in client.rows(number, step)]
        nats_k = accumulate(group, rows, clients[0].examples)
        require_finite(nats_k, stack.trained.values())
        stepper.step(most_norm=group.train.max_grad_norm)
        for number, client in enumerate(clients):
            if step < len(client.steps):
                client.count(step, nats_k[number])
            if step == len(client.steps) - 1:
                ended[number] = (client.taken, stack.values(number))
    return [ended[number] for number in range(len(clients))]


def require_paying(group: Group, clients: Sequence[Batches]) -> None:
    """UntrainedError where the first step, in tokens, costs nearly what it costs one by one: of large batches. The rule
    is a function of lengths, and of no clock: the same run has the same bits again."""
    alone = [client.rows(number, 0) for number, client in enumerate(clients)]
    rows = [row for own in alone for row in own]
    device, whole = group.on.device, group.streams is not None
    together = passes(rows, most=group.most_rows, device=device, whole=whole)
    if cost_of(alone, device=device) < WORTH * cost_of(together, device=device):
        raise UntrainedError(
            f"with batches of {group.train.batch_size} several in a pass are no faster than each alone"
        )


def accumulate(group: Group, rows: Sequence[Row], like: Examples) -> Tensor:
    """Add every client's gradient of its batch's mean loss; returns these losses (float64, on the device)."""
    stack, streams = group.stack, group.streams
    nats_k = torch.zeros(stack.clients, dtype=torch.float64, device=group.on.device)
    for part in passes(rows, most=group.most_rows, device=group.on.device, whole=streams is not None):
        stack.rows([row.client for row in part])
        batch = like.task.collate([row.item for row in part], padding=like.padding)
        drawing = nullcontext() if streams is None else drawn_by_each(part, batch, streams)
        with autocast(group.on), drawing:
            losses_n = like.task.losses(group.model, {name: there.to(group.on.device) for name, there in batch.items()})
        weighted_n = losses_n * torch.tensor([row.weight for row in part]).to(losses_n)
        torch.autograd.backward(weighted_n.sum())
        nats_k.index_add_(0, stack.owners.of_row_n, weighted_n.detach().double())
    return nats_k


def drawn_by_each(part: Sequence[Row], batch: Batch, streams: Sequence[torch.Generator]) -> DrawnByEach:
    """Dropout of a pass, whose clients' rows stand side by side; UntrainedError where it is not known how a client's
    own batch is padded."""
    length = max(row.length for row in part)
    told = batch["input_ids"].shape[1] if "input_ids" in batch else min(row.length for row in part)
    if told != length:
        raise UntrainedError("the model draws at random, and batches are not padded to their longest example alone")
    places, first = [], 0
    for client, own in itertools.groupby(part, key=lambda row: row.client):
        lengths = [row.length for row in own]
        places.append(Place(streams[client], slice(first, first + len(lengths)), max(lengths)))
        first += len(lengths)
    return DrawnByEach(places, length)


def require_finite(nats_k: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """UntrainedError where a client would skip the step: one optimiser cannot for one of several."""
    if not finite(nats_k.sum(), parameters):
        raise UntrainedError("a step whose loss or gradient is not finite")

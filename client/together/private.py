"""A group's private steps: every client's own sample, noise and charge (`fedlora.privacy.clients_engine`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from client.together.group import Group, GroupStepper
from client.together.plain import Ended
from client.together.untrained import UntrainedError
from client.training import adapter_dropout, mean_loss, rehearsed_on
from client.work import Steps, Work
from fedlora.data.examples import COMPANIES, Examples
from fedlora.models.base import autocast, computes_in
from fedlora.privacy.clients_engine import ClientsEngine, ClientShare
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.engine import LossPerExample


def train_privately(group: Group, examples: Sequence[Examples]) -> list[Ended]:
    """What `client.training.train_adapter_privately` makes of each, of `examples` as their task takes them.

    UntrainedError only before the first step, when nothing of any data has been seen: what fails until then may be
    tried in another way, and what fails later may not.
    """
    require_no_dropout(adapter_dropout(group.model))
    stack, on = group.stack, group.on
    shares = [share_of(work, own) for work, own in zip(group.works, examples, strict=True)]
    shapes = [shape for own in examples for shape in own.shapes(most=on.max_tokens)]
    engine = ClientsEngine(
        group.model, stack, shares, microbatch=group.most_rows, shapes=shapes, computes_in=computes_in(on)
    )
    steps = shares[0].mechanism.steps
    stepper = GroupStepper(group.model, stack.trained, group.train, group.pace, steps=steps)
    losses = Losses(group, [own.usable_by(group.model) for own in examples], shapes)
    texts = rehearsed_on(group.model, on=on, padding=examples[0].padding)
    with rehearsed(engine, loss_of_invented(group, texts)):
        for _ in range(steps):
            engine.step(losses)
            stepper.step()
    return [(Steps(losses.mean_of(client)), stack.values(client)) for client in range(stack.clients)]


@contextmanager
def rehearsed(engine: ClientsEngine, loss: LossPerExample) -> Iterator[None]:
    """The engine entered and tried on invented examples, or UntrainedError."""
    with ExitStack() as exits:
        try:
            exits.enter_context(engine)
            engine.rehearse(loss, COMPANIES[:1])
        except Exception as error:
            raise UntrainedError(str(error)) from error
        yield


def share_of(work: Work, examples: Examples) -> ClientShare:
    assert work.grant.mechanism is not None  # `client.together.groups` looked
    return ClientShare(work.grant.mechanism, work.grant.source(), len(examples))


class Losses:
    """The losses of rows by number, and what they were of each client."""

    def __init__(self, group: Group, examples: Sequence[Examples], shapes: Sequence[int]) -> None:
        self._group, self._shapes = group, shapes
        self._task, self._padding = examples[0].task, examples[0].padding
        self._items = list(itertools.chain.from_iterable(own.items for own in examples))
        self._client_of = [client for client, own in enumerate(examples) for _ in range(len(own))]
        self._found: list[tuple[Tensor, Tensor]] = []

    def __call__(self, indices: Tensor) -> Tensor:
        chosen = indices.tolist()
        self._group.stack.rows([self._client_of[index] for index in chosen])
        length, device = max(self._shapes[index] for index in chosen), self._group.on.device
        whole = self._task.collate([self._items[index] for index in chosen], padding=self._padding, length=length)
        with autocast(self._group.on):
            losses_n = self._task.losses(self._group.model, {name: there.to(device) for name, there in whole.items()})
        self._found.append((self._group.stack.owners.of_row_n, losses_n.detach()))
        return losses_n

    def mean_of(self, client: int) -> float | None:
        """Of every example of its own that was drawn."""
        return mean_loss([losses_n[of_row_n == client] for of_row_n, losses_n in self._found])


def loss_of_invented(group: Group, texts: Examples) -> LossPerExample:
    """Invented examples as rows of unlike clients: what couples clients is refused as what couples examples is."""
    lengths = texts.shapes(most=group.on.max_tokens)

    def losses(indices: Tensor) -> Tensor:
        chosen = indices.tolist()
        group.stack.rows([index % group.stack.clients for index in chosen])
        batch = texts.batch(chosen, length=max(lengths[index] for index in chosen), device=group.on.device)
        with autocast(group.on):
            found: torch.Tensor = texts.task.losses(group.model, batch)
        return found

    return losses

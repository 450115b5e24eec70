"""Local training of admitted work: one after the other here. Another trainer may take several together.

Whatever its way, a trainer gives for each work what `OneByOne` gives for it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from client.state.moments import Moments
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.training import Protection, train_adapter, train_adapter_privately
from client.work import Start, Steps, Trained, Work
from fedlora.adapters import read, set_trainable, write
from fedlora.adapters.live import parameters_of
from fedlora.devices.draws import draws_apart
from fedlora.models.evaluation import evaluate_examples
from fedlora.models.loaded_model import LoadedModel
from fedlora.protocol.task import Evaluation
from fedlora.randomness import seed_of

log = logging.getLogger(__name__)


class Trainer(Protocol):
    def train(self, works: Sequence[Work]) -> Iterator[Trained]:
        """In the order of `works`. What fails for one ends the rest: its caller answers for each."""
        ...


class OneByOne:
    """The slow, clear way: the resident model serves one work's state at a time."""

    def train(self, works: Sequence[Work]) -> Iterator[Trained]:
        for work in works:
            serve(work.home, work.task.run, work.start)
            quality = measured(work) if work.tells and work.parts.test.measurable else None
            steps = take_steps(work)
            yield Trained(read(work.home.model), steps, quality)


def measured(work: Work) -> Evaluation | None:
    """Quality of what was received on the site's own test examples. Under privacy no single one of them makes the task
    fail: where it cannot be computed, nothing is told."""
    private = work.grant.mechanism is not None
    try:
        return evaluate_examples(work.home.model, work.parts.test, by=work.placed, each=private)
    except Exception:
        if not private:
            raise
        log.exception("the received model could not be evaluated here; training goes on")
        return None


def serve(home: LoadedModel, run: str, start: Start) -> None:
    """Make the resident model what the round starts from."""
    home.at_version(run, start.base.version, start.base.total)
    write(home.model, start.own)


def take_steps(work: Work) -> Steps:
    """Local steps; every random draw but privacy's is addressed by run seed, client and round."""
    task, model, grant = work.placed, work.home.model, work.grant
    factors = (*task.trains, *task.keeps)
    set_trainable(model, factors)
    live, pace = parameters_of(model, factors), pace_of(work)
    with draws_apart():  # dropout draws from the global generators
        torch.manual_seed(seed_of(task.seed, *pace.turn.address, "dropout"))
        if grant.mechanism is None:
            return train_adapter(model, live, work.parts.train, task.train, on=task.model, pace=pace)
        protection = Protection(grant.mechanism, grant.source(), task.privacy.engine)
        return train_adapter_privately(
            model, live, work.parts.train, task.train, on=task.model, protection=protection, pace=pace
        )


def pace_of(work: Work) -> Pace:
    """What the round's steps are besides their gradients."""
    task, private = work.placed, work.grant.mechanism is not None
    keeps = task.train.optimizer_state == "keep"
    moments = Moments(work.site.folder, task.run).before(task.round, private=private) if keeps else {}
    return Pace(Turn.of(task, work.site.name), frozenset(parameters_of(work.home.model, task.trains)), moments)

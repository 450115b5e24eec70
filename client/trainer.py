"""Local training of admitted work: one after the other here. Another trainer may take several together.

Whatever its way, a trainer gives for each work what `OneByOne` gives for it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from client.training import Protection, train_adapter, train_adapter_privately
from client.work import Start, Steps, Trained, Work
from fedlora.adapters import read, set_trainable, write
from fedlora.models.evaluation import evaluate_examples
from fedlora.models.loaded_model import LoadedModel
from fedlora.protocol.task import Evaluation
from fedlora.randomness import generator, seed_of

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
    parameters = set_trainable(model, (*task.trains, *task.keeps))
    address = ("client", work.site.name, "round", task.round)
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed_of(task.seed, *address, "dropout"))
        if grant.mechanism is not None:
            protection = Protection(grant.mechanism, grant.source(), task.privacy.engine)
            return Steps(
                train_adapter_privately(
                    model, parameters, work.parts.train, task.train, on=task.model, protection=protection
                )
            )
        stream = generator(task.seed, *address, "batches")
        return train_adapter(model, parameters, work.parts.train, task.train, on=task.model, stream=stream)

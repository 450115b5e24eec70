"""A trainer that takes the works of several clients together, where that gives what each alone would.

    works ─► groups of one kind ─► stacked on the model ─► steps in common ─► each read out
                                        └─ what cannot be: one by one, with a line that says why

Guarantee: what comes of a work is what `OneByOne` makes of it, up to rounding; a work with privacy has its own sample,
its own noise and what it was charged for, and after its first step nothing of it is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from client.steps.turn import Turn
from client.together.group import Group
from client.together.groups import MOST_ROWS, Numbered, grouped, refused
from client.together.plain import Batches, Ended, require_paying, train_plainly
from client.together.private import train_privately
from client.together.trial import found_unfit, try_together
from client.together.untrained import UntrainedError
from client.trainer import OneByOne, measured, pace_of, serve
from client.training import largest_microbatch
from client.work import Trained, Work
from fedlora.adapters import set_trainable
from fedlora.adapters.live import parameters_of
from fedlora.adapters.stacked import UnstackableError, stacked
from fedlora.devices.draws import draws_apart
from fedlora.models.reference import referred
from fedlora.processes.memory import ran_out_of_memory
from fedlora.randomness import seed_of
from fedlora.updates import Factor

log = logging.getLogger(__name__)

Outcome = Trained | Exception
"""Of one work: what came of it, or what it failed with."""


class Together:
    """Keeps what it has said, so that a thing is said once."""

    def __init__(self, *, say: Callable[[str], None] = log.warning) -> None:
        self._say = say
        self._said: set[str] = set()

    def outcomes(self, works: Sequence[Work]) -> list[Outcome]:
        """Each work's, in the order of `works`."""
        found: dict[int, Outcome] = {}
        joined: list[Numbered] = []
        for number, work in enumerate(works):
            if why := refused(work) or found_unfit(work):
                found[number] = self._alone(work, why)
            else:
                joined.append((number, work))
        for group in grouped(joined):
            numbers, members = zip(*group, strict=True)
            found |= dict(zip(numbers, self._group(members), strict=True))
        return [found[number] for number in range(len(works))]

    def _alone(self, work: Work, why: str | None = None) -> Outcome:
        if why is not None and why not in self._said:
            self._said.add(why)
            self._say(f"clients are trained one by one: {why}.")
        try:
            (trained,) = OneByOne().train([work])
        except Exception as error:
            return error
        return trained

    def _group(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """Of works of one kind."""
        if len(works) == 1:
            return [self._alone(works[0])]
        try:
            ended = train_group(works)
        except (UntrainedError, UnstackableError) as error:
            return [self._alone(work, str(error)) for work in works]
        except Exception as error:
            if works[0].grant.mechanism is not None:  # its noise is drawn: whether it is tried again must tell nothing
                return [error for _ in works]
            why = "memory is too small for several" if ran_out_of_memory(error) else f"several fail, {error!r}"
            return [self._alone(work, why) for work in works]
        return [told(work, own) for work, own in zip(works, ended, strict=True)]


def told(work: Work, ended: Ended) -> Outcome:
    """What was trained, with the quality of what was received where that is told."""
    steps, values = ended
    try:
        serve(work.home, work.task.run, work.start)
        quality = measured(work) if work.tells and work.parts.test.measurable else None
    except Exception as error:
        return error
    return Trained(work.start.own.with_tensors(values), steps, quality)


def train_group(works: Sequence[Work]) -> list[Ended]:
    """The steps of works of one kind. UntrainedError or UnstackableError, before any, where that cannot be."""
    first, own = works[0], [work.start.own.tensors() for work in works]
    task, model = first.placed, first.home.model
    serve(first.home, task.run, first.start)
    factors = (*task.trains, *task.keeps)
    set_trainable(model, factors)
    names = parameters_of(model, factors).keys()
    live = {
        name: parameter
        for name, parameter in parameters_of(model, tuple(Factor)).items()
        if name in names or any(not torch.equal(values[name], own[0][name]) for values in own)
    }
    pace, most_rows = pace_of(first), task.train.microbatch_size or MOST_ROWS
    with draws_apart():
        if first.grant.mechanism is None:
            clients = [Batches(work, Turn.of(task, work.site.name)) for work in works]
            streams = streams_of(works) if try_together(works, live, own) else None
            with stacked(model, live, own) as stack:
                group = Group(stack, works, pace, most_rows, streams)
                require_paying(group, clients)
                return train_plainly(group, clients)
        size = largest_microbatch(task.train)
        examples = [referred(model, w.parts.train, on=task.model, at_once=size, each=True) for w in works]
        with stacked(model, live, own) as stack:
            return train_privately(Group(stack, works, pace, most_rows), examples)


def streams_of(works: Sequence[Work]) -> list[torch.Generator]:
    """What dropout draws from at each (`client.trainer.take_steps`)."""
    seeds = [seed_of(w.placed.seed, *Turn.of(w.placed, w.site.name).address, "dropout") for w in works]
    return [torch.Generator(works[0].placed.model.device).manual_seed(seed) for seed in seeds]

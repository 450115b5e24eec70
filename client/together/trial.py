"""A trial of a model before clients train together on it: are the losses of one client's rows, beside another client's,
what they are alone?

On invented examples, once a process, model and kind of work. It finds what mixes the rows of a pass (statistics of a
batch, experts with room for so many tokens), what draws and is not dropout, and what trains outside of plain linear
layers; and whether the model drops out, so that a client's rows must stay together (`draws`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from client.together.draws import DrawnByEach, Place
from client.together.untrained import UntrainedError
from client.work import Work
from fedlora.adapters.stacked import stacked
from fedlora.data.examples import COMPANIES, Examples, invented
from fedlora.models.base import autocast
from fedlora.models.reference import referred
from fedlora.privacy.quiet import checkpointing
from fedlora.privacy.rehearsal import TIGHT_CPU, TIGHT_ELSEWHERE
from fedlora.updates import Tensors

OWN, OTHER = list(COMPANIES[0][:2]), COMPANIES[0][2]
"""The rows of the client that is looked at, and that of another."""

SEEDS = (1, 2)


@dataclass(frozen=True)
class Found:
    """What a trial has found."""

    draws: bool = False
    """Whether the model drops out."""
    why_not: str | None = None
    """Why clients are trained one by one."""


def found_unfit(work: Work) -> str | None:
    """Why the trial of this work's model failed; None where it did not, or was not made."""
    return _FOUND.get(work.home.model, {}).get(_kind(work), Found()).why_not


def try_together(works: Sequence[Work], live: Mapping[str, nn.Parameter], values: Sequence[Tensors]) -> bool:
    """Whether the model draws; UntrainedError where the trial fails. The model serves the first work."""
    first = works[0]
    found, kind = _FOUND.setdefault(first.home.model, {}), _kind(first)
    if kind not in found:
        try:
            found[kind] = _trial(first, live, values)
        except Exception as error:
            found[kind] = Found(why_not=f"several fail where one does not ({type(error).__name__}: {error})")
    if (why := found[kind].why_not) is not None:
        raise UntrainedError(why)
    return found[kind].draws


def _trial(first: Work, live: Mapping[str, nn.Parameter], values: Sequence[Tensors]) -> Found:
    task, model = first.placed, first.home.model
    plain = invented(model, on=task.model, padding=first.home.base.padding)
    texts = referred(model, plain, on=task.model, at_once=len(COMPANIES[0]))
    model.train()
    torch.manual_seed(SEEDS[0])  # the caller has forked the stream
    alone_n = _losses(first, texts, OWN)
    with stacked(model, live, values[:2]) as stack:
        stack.rows([0, 0, 1])
        if _same(_losses(first, texts, [*OWN, OTHER])[: len(OWN)], alone_n, on=task.model.device):
            return Found()
        if checkpointing(model):
            return Found(why_not="the model draws at random, and would again where activations are computed twice")
        if (task.train.microbatch_size or task.train.batch_size) < task.train.batch_size:
            return Found(why_not="the model draws at random for each microbatch of a client's")
        streams = [torch.Generator(task.model.device).manual_seed(seed) for seed in SEEDS]
        lengths = texts.lengths
        own = max(lengths[index] for index in OWN)
        places = (Place(streams[0], slice(0, 2), own), Place(streams[1], slice(2, 3), lengths[OTHER]))
        with DrawnByEach(places, max(own, lengths[OTHER])):
            drawn_n = _losses(first, texts, [*OWN, OTHER])[: len(OWN)]
    if _same(drawn_n, alone_n, on=task.model.device):
        return Found(draws=True)
    return Found(
        why_not="a client's losses beside another's are not those it has alone: the model draws at random, or mixes "
        "the rows of a pass"
    )


def _same(one_n: Tensor, other_n: Tensor, *, on: str) -> bool:
    close = TIGHT_CPU if on == "cpu" else TIGHT_ELSEWHERE
    return torch.allclose(one_n, other_n, rtol=close, atol=1e-3 * close)


def _losses(work: Work, texts: Examples, indices: list[int]) -> Tensor:
    with torch.no_grad(), autocast(work.placed.model):
        batch = texts.batch(indices, device=work.placed.model.device)
        return texts.task.losses(work.home.model, batch).double().cpu()


def _kind(work: Work) -> Hashable:
    task = work.placed
    return task.trains, task.keeps, task.model, task.train.batch_size, task.train.microbatch_size


_FOUND: WeakKeyDictionary[nn.Module, dict[Hashable, Found]] = WeakKeyDictionary()
"""By model and kind of work."""

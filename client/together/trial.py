"""A trial of a model before clients train together on it: are the losses of one client's rows, beside another client's,
what they are alone?

On invented examples, once a process, model and kind of work. It finds what mixes the rows of a pass (statistics of a
batch, experts with room for so many tokens), draws that are not made client by client, and what trains outside of plain
linear layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from client.together.untrained import UntrainedError
from client.work import Work
from fedlora.adapters.stacked import stacked
from fedlora.data.examples import COMPANIES, Examples, invented
from fedlora.models.base import autocast
from fedlora.models.reference import referred
from fedlora.privacy.rehearsal import TIGHT_CPU, TIGHT_ELSEWHERE
from fedlora.updates import Tensors

OWN, OTHER = list(COMPANIES[0][:2]), COMPANIES[0][2]
"""The rows of the client that is looked at, and that of another."""


def found_unfit(work: Work) -> str | None:
    """What a trial of this work's model has found; None where it may train with others, or was not tried."""
    return _FOUND.get(work.home.model, {}).get(_kind(work))


def try_together(works: Sequence[Work], live: Mapping[str, nn.Parameter], values: Sequence[Tensors]) -> None:
    """UntrainedError where it fails; the model serves the first work, and is left as it was."""
    first = works[0]
    found, kind = _FOUND.setdefault(first.home.model, {}), _kind(first)
    if kind not in found:
        try:
            found[kind] = _compared(first, live, values)
        except Exception as error:
            found[kind] = f"several fail where one does not ({type(error).__name__}: {error})"
    if (why := found[kind]) is not None:
        raise UntrainedError(why)


def _compared(first: Work, live: Mapping[str, nn.Parameter], values: Sequence[Tensors]) -> str | None:
    on, model = first.placed.model, first.home.model
    plain = invented(model, on=on, padding=first.home.base.padding)
    texts = referred(model, plain, on=on, at_once=len(COMPANIES[0]))
    model.train()
    alone_n = _losses(first, texts, OWN)
    with stacked(model, live, values[:2]) as stack:
        stack.rows([0, 0, 1])
        together_n = _losses(first, texts, [*OWN, OTHER])[: len(OWN)]
    close = TIGHT_CPU if on.device == "cpu" else TIGHT_ELSEWHERE
    if torch.allclose(together_n, alone_n, rtol=close, atol=1e-3 * close):
        return None
    return "a client's losses beside another's are not those it has alone: the model draws at random, or mixes rows"


def _losses(work: Work, texts: Examples, indices: list[int]) -> Tensor:
    with torch.no_grad(), autocast(work.placed.model):
        batch = texts.batch(indices, device=work.placed.model.device)
        return texts.task.losses(work.home.model, batch).double().cpu()


def _kind(work: Work) -> Hashable:
    return work.placed.trains, work.placed.keeps, work.placed.model


_FOUND: WeakKeyDictionary[nn.Module, dict[Hashable, str | None]] = WeakKeyDictionary()
"""Why a model's clients are trained one by one, by kind of work; None where they need not be."""

"""The stage between the intake and `strategy.combine`: bound every update, then let the rule decide.

    one by one    norm bound on ΔW: clipped, or left out (memory independent of the number of clients)
    all at once   clip to the median norm │ screen │ multi-Krum: which updates go on, whole, by their ΔW
                  median │ trimmed mean: one update in place of all, by what is sent

Guarantees: weights are uniform, because a claimed number of examples is a lever; an update that is left out is handed
to nobody, so that the strategy's sums are bit-identical to those without it; where all are held, what comes out does
not depend on the order of arrival; a round that the rule cannot judge stops the run, with nothing changed.

Clients that are left out before a rule judges (norm, gauge) count among its f liars; more than f of them break the
rule's assumption, and stop the run as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median as median_of
from typing import Protocol

from fedlora.config.robust import COORDINATE_RULES, RobustSettings
from fedlora.updates import Adapter, Factor, Update, norm, subtract
from server.record.records import SCREENED_OUT
from server.stages.robust.change import Change, change, squared_distances
from server.stages.robust.coordinates import median, trimmed_mean
from server.stages.robust.multi_krum import left_out
from server.stages.robust.norm_bound import clip
from server.stages.robust.screening import outliers

OUTLYING = 5.0
"""Honest clients that take the same steps are within a factor of two or three; a gauge that does harm is far beyond."""


class Judge(Protocol):
    """Told what becomes of the update that arrived at `position`; a code where it is left out."""

    def __call__(self, position: int, *, change_norm: float | None = None, code: str | None = None) -> None: ...


@dataclass(frozen=True)
class Stage:
    """What every decision of one round needs."""

    settings: RobustSettings
    sent: Adapter
    trains: tuple[Factor, ...]
    judge: Judge


@dataclass(frozen=True)
class Heard:
    """One update, and where it came in the order of arrival."""

    position: int
    update: Update
    found: Change | None
    """Its change of ΔW, before any clipping; None where only coordinates are looked at."""


def robust(
    updates: Iterable[Update],
    *,
    settings: RobustSettings,
    sent: Adapter,
    trains: Iterable[Factor],
    judge: Judge,
    stop: Callable[[str], Exception],
) -> Iterator[Update]:
    """The updates that go on. `stop(why)` makes the exception that ends a round which cannot be judged."""
    stage = Stage(settings, sent, tuple(trains), judge)
    bounded = within_bound(updates, stage)
    if settings.rule == "mean":
        yield from (heard.update for heard in bounded if heard is not None)
        return
    arrived = list(bounded)
    held = sorted((heard for heard in arrived if heard is not None), key=lambda heard: heard.update.client)
    held = in_gauge(held, stage)
    liars = len(arrived) - len(held)
    if len(arrived) < settings.least_updates:
        raise stop(f"{settings.precondition}, {len(arrived)} arrived. ")
    if liars > settings.attackers:
        raise stop(f"{liars} were left out already, more than robust.attackers={settings.attackers} may lie. ")
    yield from chosen(held, stage, attackers=settings.attackers - liars)


def within_bound(updates: Iterable[Update], stage: Stage) -> Iterator[Heard | None]:
    """Every update with weight one, within the norm bound; None for one that is left out."""
    settings = stage.settings
    for position, update in enumerate(updates):
        update = replace(update, weight=1.0)
        if not settings.on_products:
            yield Heard(position, update, None)
            continue
        found = change(update.adapter, stage.sent)
        bound, size = settings.norm_bound, found.norm
        over = bound is not None and size > bound
        left_out = over and settings.over_bound == "reject"
        stage.judge(position, change_norm=size, code="over-norm" if left_out else None)
        if over and bound is not None and not left_out:
            update = clip(update, stage.sent, stage.trains, bound=bound)
            found = change(update.adapter, stage.sent)
        yield None if left_out else Heard(position, update, found)


def in_gauge(held: Sequence[Heard], stage: Stage) -> list[Heard]:
    """Where A and B both train, without those whose factors moved OUTLYING times as far as the median client's.

    (B·λ, A/λ) is the same ΔW, so that no measure of ΔW sees it, and ruins a mean of A beside a mean of B: the product
    of the means grows like λ. The factors themselves tell.
    """
    both = {Factor.A, Factor.B} <= set(stage.trains)
    if not both or not stage.settings.on_products or not held:
        return list(held)
    start = stage.sent.tensors((Factor.A, Factor.B))
    sizes = [norm(subtract(heard.update.adapter.tensors((Factor.A, Factor.B)), start)) for heard in held]
    limit = OUTLYING * median_of(sizes)
    for heard, size in zip(held, sizes, strict=True):
        if size > limit:
            stage.judge(heard.position, code="outlying-factors")
    return [heard for heard, size in zip(held, sizes, strict=True) if size <= limit]


def chosen(held: Sequence[Heard], stage: Stage, *, attackers: int) -> Iterator[Update]:
    """What the rule hands on, with f = `attackers` liars still among the updates."""
    settings = stage.settings
    if settings.rule in COORDINATE_RULES:
        tensors = [heard.update.adapter.tensors(stage.trains) for heard in held]
        centre = median(tensors) if settings.rule == "median" else trimmed_mean(tensors, trim=attackers)
        yield Update(f"({settings.rule})", 1.0, stage.sent.with_tensors(centre))
        return
    changes = [heard.found for heard in held if heard.found is not None]
    if settings.rule == "clip-to-median":
        bound = median_of(found.norm for found in changes)
        for heard, found in zip(held, changes, strict=True):
            over = found.norm > bound
            yield clip(heard.update, stage.sent, stage.trains, bound=bound) if over else heard.update
        return
    squared_kk = squared_distances(changes)
    if settings.rule == "screen":
        out = set(outliers(squared_kk, attackers=attackers, threshold=settings.threshold))
    else:
        out = set(left_out(squared_kk, attackers=attackers, keep=settings.keep))
    for position, heard in enumerate(held):
        if position in out:
            stage.judge(heard.position, code=SCREENED_OUT)
    yield from (heard.update for position, heard in enumerate(held) if position not in out)

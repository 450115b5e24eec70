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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median as median_of

from fedlora.config.clients.robust import COORDINATE_RULES, RobustSettings
from fedlora.updates import Factor, Update, norm, subtract
from server.record.records import SCREENED_OUT
from server.stages.base import Round
from server.stages.robust.change import Change, change, squared_distances
from server.stages.robust.coordinates import median, trimmed_mean
from server.stages.robust.multi_krum import left_out
from server.stages.robust.norm_bound import clip
from server.stages.robust.screening import outliers

OUTLYING = 5.0
"""Honest clients that take the same steps are within a factor of two or three; a gauge that does harm is far beyond."""


@dataclass(frozen=True)
class Robust:
    """The stage."""

    settings: RobustSettings

    @property
    def serves_the_mean(self) -> bool:
        """Not where a rule works coordinate by coordinate."""
        return self.settings.rule not in COORDINATE_RULES

    def arrive(self, updates: Iterator[Update], this: Round) -> Iterator[Update]:
        return robust(updates, self.settings, this)


@dataclass(frozen=True)
class Heard:
    """One update, and its position in the order of arrival."""

    position: int
    update: Update
    found: Change | None
    """Its change of ΔW, before any clipping; None where only coordinates are looked at."""


def robust(updates: Iterable[Update], settings: RobustSettings, this: Round) -> Iterator[Update]:
    """The updates that go on."""
    bounded = within_bound(updates, settings, this)
    if settings.rule == "mean":
        yield from (heard.update for heard in bounded if heard is not None)
        return
    arrived = list(bounded)
    held = sorted((heard for heard in arrived if heard is not None), key=lambda heard: heard.update.client)
    held = in_gauge(held, settings, this)
    liars = len(arrived) - len(held)
    if len(arrived) < settings.least_updates:
        raise this.stop(f"{settings.precondition}, {len(arrived)} arrived. ")
    if liars > settings.attackers:
        raise this.stop(f"{liars} were already left out, more than robust.attackers={settings.attackers} allows. ")
    yield from chosen(held, settings, this, attackers=settings.attackers - liars)


def within_bound(updates: Iterable[Update], settings: RobustSettings, this: Round) -> Iterator[Heard | None]:
    """Every update with weight one, within the norm bound; None for one that is left out."""
    for position, update in enumerate(updates):
        update = replace(update, weight=1.0)
        if not settings.on_products:
            yield Heard(position, update, None)
            continue
        found = change(update.adapter, this.sent)
        bound, size = settings.norm_bound, found.norm
        over = bound is not None and size > bound
        left_out = over and settings.over_bound == "reject"
        this.judge(position, change_norm=size, code="over-norm" if left_out else None)
        if over and bound is not None and not left_out:
            update = clip(update, this.sent, this.trains, bound=bound)
            found = change(update.adapter, this.sent)
        yield None if left_out else Heard(position, update, found)


def in_gauge(held: Sequence[Heard], settings: RobustSettings, this: Round) -> list[Heard]:
    """Where A and B both train, without those whose factors moved OUTLYING times as far as the median client's.

    (B·λ, A/λ) is the same ΔW, so that no measure of ΔW sees it, and ruins a mean of A beside a mean of B: the product
    of the means grows like λ. The factors themselves tell.
    """
    both = {Factor.A, Factor.B} <= set(this.trains)
    if not both or not settings.on_products or not held:
        return list(held)
    start = this.sent.tensors((Factor.A, Factor.B))
    sizes = [norm(subtract(heard.update.adapter.tensors((Factor.A, Factor.B)), start)) for heard in held]
    limit = OUTLYING * median_of(sizes)
    for heard, size in zip(held, sizes, strict=True):
        if size > limit:
            this.judge(heard.position, code="outlying-factors")
    return [heard for heard, size in zip(held, sizes, strict=True) if size <= limit]


def chosen(held: Sequence[Heard], settings: RobustSettings, this: Round, *, attackers: int) -> Iterator[Update]:
    """What the rule hands on, with f = `attackers` liars still among the updates."""
    if settings.rule in COORDINATE_RULES:
        tensors = [heard.update.adapter.tensors(this.trains) for heard in held]
        centre = median(tensors) if settings.rule == "median" else trimmed_mean(tensors, trim=attackers)
        yield Update(f"({settings.rule})", 1.0, this.sent.with_tensors(centre))
        return
    changes = [heard.found for heard in held if heard.found is not None]
    if settings.rule == "clip-to-median":
        bound = median_of(found.norm for found in changes)
        for heard, found in zip(held, changes, strict=True):
            over = found.norm > bound
            yield clip(heard.update, this.sent, this.trains, bound=bound) if over else heard.update
        return
    squared_kk = squared_distances(changes)
    if settings.rule == "screen":
        out = set(outliers(squared_kk, attackers=attackers, threshold=settings.threshold))
    else:
        out = set(left_out(squared_kk, attackers=attackers, keep=settings.keep))
    for position, heard in enumerate(held):
        if position in out:
            this.judge(heard.position, code=SCREENED_OUT)
    yield from (heard.update for position, heard in enumerate(held) if position not in out)

"""The checks that somebody asked for, of one adapter: its tensors first, and nothing more where those are broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedlora.config import GateSettings
from fedlora.exports.merged import base_of
from fedlora.exports.source import Source, sources_in
from fedlora.gate.checks.alignment import alignment
from fedlora.gate.checks.forgetting import forgetting, windows_of
from fedlora.gate.checks.memorised import beginnings, memorised
from fedlora.gate.checks.quality import AGAINST, ALONE, HeldOut, mean_of, measured_by, quality
from fedlora.gate.checks.recorded import recorded
from fedlora.gate.checks.refusals import Prompt, prompts_in, refusals
from fedlora.gate.checks.tensors import NUMBERS, SHAPES, scanned
from fedlora.gate.shrunk import SCALES, shrunk
from fedlora.gate.verdict import Check
from fedlora.results.given import Naming, whole_rows
from fedlora.results.opened import Opened, computed_on, one_source, open_source, put_in
from fedlora.results.registry import results_of
from fedlora.results.writes.prompts import require_writing
from fedlora.settings import SettingsError


@dataclass(frozen=True)
class Asked:
    """What a person gave."""

    on: str | None = None
    """Rows that no site trained on."""
    against: Path | None = None
    alone: Path | None = None
    refusals: str | None = None
    forgetting: Path | None = None
    memorised: str | None = None
    unaligned: str | None = None
    """The model that the base was aligned from."""
    base: str | None = None
    device: str | None = None

    def require_whole(self) -> None:
        """SettingsError for a comparison without rows to compare on."""
        for name, given in (("--against", self.against), ("--alone", self.alone)):
            if given is not None and self.on is None:
                raise SettingsError(f"{name} is compared on rows; give them with --on FILE.")


@dataclass(frozen=True)
class Ready:
    """The same, read once for the adapter and for less of it."""

    held_out: HeldOut | None = None
    prompts: Sequence[Prompt] = ()
    windows: Sequence[Tensor] = ()
    beginnings: Sequence[tuple[list[int], list[int]]] = ()


@dataclass(frozen=True)
class Looked:
    """What was found."""

    checks: tuple[Check, ...]
    opened: Opened | None = None
    """None where the tensors are broken: nothing else was looked at."""
    ready: Ready = Ready()


def looked_at(source: Source, asked: Asked, naming: Naming, by: GateSettings) -> Looked:
    """SettingsError, before any check, for files that cannot be read, and for a base that is another one."""
    base = base_of(source)
    tensors = scanned(source, base.model, most=by.change)
    if not all(check.passed for check in tensors if check.name in (SHAPES, NUMBERS)):
        return Looked(tuple(tensors))
    if asked.unaligned is not None:
        tensors.append(alignment(source, base.model, asked.unaligned, by))
    put_in(base.model, source)
    opened = Opened(source, base)
    ready = prepared(opened, asked, naming, by)
    own = recorded(source, source.folder.parent, by) if asked.on is None else None
    return Looked((*tensors, *([own] if own else []), *measured(opened, ready, by)), opened, ready)


def prepared(opened: Opened, asked: Asked, naming: Naming, by: GateSettings) -> Ready:
    if asked.refusals or asked.forgetting or asked.memorised:
        require_writing(opened.model, opened.on.task)
    results = results_of(opened.on.task)
    return Ready(
        None if asked.on is None else held_out(opened, asked, naming),
        prompts_in(asked.refusals) if asked.refusals else (),
        windows_of(opened, asked.forgetting) if asked.forgetting else (),
        beginnings(
            opened, [one.row for one in whole_rows(asked.memorised, naming, results, client=None) if one.row], by
        )
        if asked.memorised
        else (),
    )


def held_out(opened: Opened, asked: Asked, naming: Naming) -> HeldOut:
    """With what the others make of the rows."""
    results = results_of(opened.on.task)
    given = whole_rows(str(asked.on), naming, results, client=None)
    on = HeldOut([one.row for one in given if one.row is not None], results)
    others = []
    if asked.against is not None:
        other = open_source(computed_on(one_source(asked.against, base=asked.base), asked.device))
        others.append((AGAINST, measured_by(other, opened, on)))
    if asked.alone is not None:
        sites = sources_in(asked.alone, base=asked.base)
        each = [measured_by(open_source(computed_on(site, asked.device)), opened, on) for site in sites]
        others.append((ALONE, mean_of(each, opened.task.compare_by.name)))
    return HeldOut(on.rows, results, others)


def measured(opened: Opened, ready: Ready, by: GateSettings) -> Iterator[Check]:
    """What the model, as it stands, comes to."""
    if ready.held_out is not None:
        yield from quality(opened, ready.held_out, by)
    if ready.prompts:
        yield from refusals(opened, ready.prompts, by)
    if ready.windows:
        yield forgetting(opened, ready.windows, by)
    if ready.beginnings:
        yield memorised(opened, ready.beginnings, by)


def with_less(looked: Looked, by: GateSettings) -> Iterator[tuple[float, tuple[Check, ...]]]:
    """The measured checks again, with less and less of the adapter. Nothing is written."""
    if looked.opened is None:
        return
    for scale in SCALES:
        with shrunk(looked.opened.model, scale):
            yield scale, tuple(measured(looked.opened, looked.ready, by))

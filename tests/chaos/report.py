"""What the drill says of itself, as the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- written by make chaos -->", "<!-- end -->"


@dataclass(frozen=True)
class Injected:
    """One fault: when (monotonic seconds), to whom, and how long until a round, and the site, were there again."""

    fault: str
    site: str | None
    """None: the coordinator."""
    after_round: int
    began: float
    over: float
    hit: bool
    """Whether it came at the moment that it waits for."""
    next_round_s: float | None = None
    site_back_s: float | None = None


@dataclass(frozen=True)
class Sound:
    """A drill that ended well."""

    injected: tuple[Injected, ...]
    rounds: int
    attempts: int
    """How often the run was submitted to Flower."""
    acknowledged: int
    """Updates that were taken, all sites."""
    charged: int
    """Charges in all ledgers: never fewer."""


def table(sound: Sound, *, seconds: float) -> str:
    lines = [
        "| fault | times | next round after (s) | site trains again after (s) |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(item.fault for item in sound.injected):
        mine = [item for item in sound.injected if item.fault == name]
        missed = sum(not item.hit for item in mine)
        times = f"{len(mine)}" + (f" ({missed} not at its moment)" if missed else "")
        back = "" if mine[0].site is None else seconds_of(item.site_back_s for item in mine)
        lines.append(f"| {name} | {times} | {seconds_of(item.next_round_s for item in mine)} | {back} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{len(sound.injected)} faults in {seconds / 60:.0f} minutes; {sound.rounds} rounds, each once; the run "
            f"was submitted {sound.attempts} times; {sound.acknowledged} updates were acknowledged, and "
            f"{sound.charged} charges are in the ledgers, among them each acknowledged one.",
        ]
    )


def seconds_of(values: Iterable[float | None]) -> str:
    """In the order of injection."""
    return ", ".join("never" if value is None else f"{value:.0f}" for value in values)


def write_report(document: Path, text: str) -> None:
    """Replace what stands between the document's two marks. ValueError if it has none."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the marks {BEGIN} and {END}; put them where the table belongs.")
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")

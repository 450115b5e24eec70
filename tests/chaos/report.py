"""What the drill says of itself, as a table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

END = "<!-- end -->"
LONGEST = 110
"""Characters of what a process said that fit into a table."""


@dataclass(frozen=True)
class Seen:
    """What a fault saw of itself while it was done."""

    said: str
    happened: bool = True
    """Whether the drill saw that it did: a process gone or stopped, a page changed, a limit in force."""
    at_its_moment: bool = True
    """Whether the moment that it waits for came; it is done anyway."""


@dataclass(frozen=True)
class Injected:
    """One fault: when (monotonic seconds), to whom, and how long until a round, and the site, were there again."""

    fault: str
    site: str | None
    """None: the coordinator."""
    after_round: int
    began: float
    over: float
    seen: Seen
    next_round_s: float | None = None
    site_back_s: float | None = None


@dataclass(frozen=True)
class Sound:
    """A drill that ended well."""

    injected: tuple[Injected, ...]
    rounds: int
    attempts: int
    """Number of times that the run was submitted to Flower."""
    acknowledged: int
    """Updates that were taken, all sites."""
    charged: int
    """Charges in all ledgers: never fewer."""

    @property
    def happened(self) -> int:
        return sum(item.seen.happened for item in self.injected)


def table(sound: Sound, *, seconds: float) -> str:
    lines = [
        "| fault | what was seen | next round after (s) | site trains again after (s) |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(item.fault for item in sound.injected):
        mine = [item for item in sound.injected if item.fault == name]
        seen = "; ".join(dict.fromkeys(in_words(item.seen) for item in mine))
        back = "" if mine[0].site is None else seconds_of(item.site_back_s for item in mine)
        lines.append(f"| {name} | {seen} | {seconds_of(item.next_round_s for item in mine)} | {back} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{sound.happened} faults of {len({item.fault for item in sound.injected})} kinds in "
            f"{seconds / 60:.0f} minutes; {sound.rounds} rounds, each once; the run was submitted {sound.attempts} "
            f"times; {sound.acknowledged} updates were acknowledged, and {sound.charged} charges are in the ledgers, "
            "among them each acknowledged one.",
        ]
    )


def in_words(seen: Seen) -> str:
    said = one_line(seen.said)
    if not seen.happened:
        return f"did not happen, and is not counted: {said}"
    return said if seen.at_its_moment else f"{said} (not at its moment)"


def one_line(text: str) -> str:
    """Fit for a table's cell."""
    words = " ".join(text.replace("|", "/").split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def seconds_of(values: Iterable[float | None]) -> str:
    """In the order of injection."""
    return ", ".join("never" if value is None else f"{value:.0f}" for value in values)


def write_report(document: Path, text: str, *, written_by: str) -> None:
    """Replace what stands between the document's two marks of this command. ValueError if it has none."""
    mark = f"<!-- written by {written_by} -->"
    before, begin, rest = document.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the marks {mark} and {END}; put them where the table belongs.")
    document.write_text(f"{before}{mark}\n{text}\n{END}{after}", encoding="utf-8")

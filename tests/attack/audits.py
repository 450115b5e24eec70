"""Every packaged private recipe audited: with each fault in it, and as it is, many times.

python -m tests.attack.audits --honest 20 --report docs/privacy_attacks.md       (make audit)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from client import own_rows
from fedlora.config import load
from simulations.auditing.audit import Asked, Audit, audit
from tests.attack.faults import FAULTS
from tests.attack.report import table, write_between

RECIPES = ("private-fedit", "private-ffa", "private-fedsvd", "private-fedsb")
MARK = "make audit"


@dataclass(frozen=True)
class Tried:
    """One audit."""

    recipe: str
    fault: str | None
    found: Audit
    cpu_s: float

    @property
    def by(self) -> list[str]:
        """The tests that refuted."""
        return [test.test for test in self.found.findings if test.refuted] + ["rows"] * self.found.moved.refuted


def tried(recipe: str, fault: str | None) -> Tried:
    own_rows._rows_in.cache_clear()  # what another split made of these rows
    started = time.process_time()
    loaded = load(recipe)
    if fault is None:
        found = audit(loaded, Asked())
    else:
        with FAULTS[fault]():
            found = audit(loaded, Asked())
    done = Tried(recipe, fault, found, time.process_time() - started)
    verdict = "refuted by " + ", ".join(done.by) if done.by else "not refuted" if found.conclusive else "no conclusion"
    print(f"{recipe}, {fault or 'as it is'}: {verdict}; {done.cpu_s:.0f} CPU s", flush=True)
    return done


def faults_table(every: Iterable[Tried]) -> str:
    """A row a fault, a column a recipe: what refuted it, and in how much time."""
    found = {(item.fault, item.recipe): item for item in every}
    rows = [
        [fault, *(f"{', '.join(found[fault, recipe].by) or 'NOT REFUTED'} ({found[fault, recipe].cpu_s:.0f} s)"
                  for recipe in RECIPES)]
        for fault in FAULTS
    ]  # fmt: skip
    return table(["fault", *RECIPES], rows)


def honest_table(every: Iterable[Tried]) -> str:
    """A row a recipe: how many of its runs were refuted, and what would have been found."""
    rows = []
    for recipe in RECIPES:
        mine = [item for item in every if item.recipe == recipe]
        if mine:
            least = min(min(item.found.power.values()) for item in mine)
            moved = max(item.found.moved.most for item in mine)
            refuted, unsure = sum(item.found.refuted for item in mine), sum(not item.found.conclusive for item in mine)
            rows.append([recipe, len(mine), refuted, unsure, f"{least:.4f}", f"{moved:.6f} C"])
    return table(["recipe", "runs", "refuted", "no conclusion", "least power", "most that a row moved"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--honest", type=int, default=20, help="runs without a fault, the recipes in turn")
    parser.add_argument("--only", help="a fault by a part of its name; none: honest runs only")
    parser.add_argument("--report", type=Path, help="write the tables into this document, between its two marks")
    given = parser.parse_args()
    names = [name for name in FAULTS if given.only is None or given.only in name]
    honest = [tried(RECIPES[number % len(RECIPES)], None) for number in range(given.honest)]
    faulty = [tried(recipe, fault) for fault in names for recipe in RECIPES]
    parts = [honest_table(honest)] if honest else []
    parts += [faults_table(faulty)] if len(names) == len(FAULTS) else []
    text = "\n\n".join(parts)
    print(text)
    if given.report is not None:
        write_between(given.report, MARK, text)


if __name__ == "__main__":
    main()

"""Every attack on the privacy claim that has ever worked, tried again.

python -m tests.attack.drill --report docs/privacy_attacks.md       (make attack)
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.attack.attack import Attack, Gain
from tests.attack.attacks import ATTACKS
from tests.attack.report import table, write_between

MARK = "make attack"


@dataclass(frozen=True)
class Tried:
    """One attack that was tried."""

    attack: Attack
    gain: Gain
    seconds: float


def tried(attack: Attack) -> Tried:
    """Try it in a folder of its own."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        done = Tried(attack, gain_of(attack, Path(folder)), time.monotonic() - started)
    print(f"{attack.name}: {'' if done.gain.held else 'GAINS '}{done.gain.said} ({done.seconds:.0f} s)", flush=True)
    return done


def gain_of(attack: Attack, folder: Path) -> Gain:
    """What it gains; an attack that cannot be tried has not been shown to gain nothing."""
    try:
        return attack.run(folder)
    except Exception as error:  # the others are tried all the same
        return Gain(f"not tried: {type(error).__name__}: {str(error).splitlines()[0][:120]}", False)


def report(every: Sequence[Tried]) -> str:
    """The table, and what each attack is."""
    rows = [
        [
            item.attack.name,
            item.attack.before,
            item.gain.said if item.gain.held else f"**{item.gain.said}**",
            f"`--only '{item.attack.name}'`",
            ", ".join(f"`{test}`" for test in item.attack.tests),
        ]
        for item in every
    ]
    lines = [table(["attack", "gained in 0.1.0", "gains now", "try it", "short form"], rows), ""]
    lines += [f"- **{item.attack.name}**: {item.attack.what}" for item in every]
    total = sum(item.seconds for item in every)
    won = sum(not item.gain.held for item in every)
    return "\n".join([*lines, "", f"{len(every)} attacks in {total / 60:.1f} minutes; {won} gain anything."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of an attack's name")
    parser.add_argument("--report", type=Path, help="write the table into this document, between its two marks")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refusals are what is wanted, and sites log them
    chosen = [attack for attack in ATTACKS if given.only in attack.name]
    if not chosen:
        sys.exit(f"no attack has {given.only!r} in its name; there are: {', '.join(a.name for a in ATTACKS)}")
    every = [tried(attack) for attack in chosen]
    if given.report is not None:
        write_between(given.report, MARK, report(every))
    if any(not item.gain.held for item in every):
        sys.exit(1)


if __name__ == "__main__":
    main()

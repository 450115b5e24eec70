"""Which optimiser and rate should be the default: a recipe of three lines on three tables, rate by rate.

    python -m tests.bench.bench_defaults                      # three short rounds, half of the clients in each
    python -m tests.bench.bench_defaults --whole              # the defaults as they are, to the end

The tables are the demo's six airlines, twelve unbalanced classes and two classes of long texts (tests/own_tables.py).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedlora.config import Recipe, override
from fedlora.settings import parse
from simulations.run import prepare, simulate
from tests.own_tables import long_texts, twelve_classes

RATES = ("sgd 0.1", "adamw 0.001", "adamw 0.003", "adamw 0.01", "adamw 0.03")
SHORT = ("rounds.count=3", "rounds.fraction=0.5", "rounds.evaluate_every=3", "train.batch_size=16", "train.steps=10",
         "data.test_fraction=0.01", "data.held_out=200")  # fmt: skip


def tables(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every table's name and its three lines."""
    tickets, reports = twelve_classes(folder / "tickets.csv"), long_texts(folder / "reports.csv")
    yield "twelve classes", {"source": str(tickets), "text": "ticket", "label": "topic"}
    yield "six airlines", {"source": "airlines", "text": "text", "label": "label"}
    yield "long texts", {"source": str(reports), "text": "report", "label": "outcome"}


def row(recipe: Recipe) -> str:
    """One run's figures."""
    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(prepare(recipe), Path(folder), watch=lambda event: None)
    said = summary["verdict"][0].partition(" than guessing")[0] if summary["verdict"] else ""
    return f"{summary['loss']:>8.3f}  {summary['accuracy']:>8.3f}  {summary['majority']:>8.3f}  {said}"


def main(rates: Sequence[str], *, only: str | None, overrides: Sequence[str]) -> None:
    print(f"{'table':<16}{'optimiser, rate':<16}{'loss':>8}  {'accuracy':>8}  {'majority':>8}  verdict")
    with tempfile.TemporaryDirectory() as folder:
        for name, three in tables(Path(folder)):
            if only is not None and only not in name:
                continue
            for rate in rates:
                optimizer, _, lr = rate.partition(" ")
                own = [f"train.optimizer={optimizer}", f"train.lr={lr}"] if rate != "default" else []
                print(
                    f"{name:<16}{rate:<16}",
                    row(parse(Recipe, override({"data": three}, [*overrides, *own]))),
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", help='such as "adamw 0.01"; `default` for what no setting says')
    parser.add_argument("--only", help="a word of the table's name")
    parser.add_argument("--whole", action="store_true", help="the defaults, to the end, not the short rounds")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], help="key=value")
    asked = parser.parse_args()
    chosen = asked.rates or (["default"] if asked.whole else RATES)
    main(chosen, only=asked.only, overrides=[*([] if asked.whole else SHORT), *asked.overrides])

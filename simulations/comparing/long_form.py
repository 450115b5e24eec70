"""Runs and rounds in numbers, for whoever computes with them: a row a run, and a row a run and round."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlora.differing import own, value_words
from server.record.lines import read_records
from server.record.records import RoundRecord
from server.trial import trial_in
from simulations.comparing.finished import Run

FIGURES = (
    "bytes_up",
    "bytes_down",
    "aggregation_error_max",
    "epsilon_max",
    "seconds",
    "rounds",
    "standing",
    "majority",
)
"""Of a summary, as they are."""


def run_rows(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A row a run: what it is one of, the settings in which the runs differ, its figures; None where not known."""
    for run, apart in zip(runs, _apart(runs), strict=True):
        yield {
            **_one_of(run), **apart, "metric": run.metric.name, "score": run.score, "loss": run.summary.get("loss"),
            "test_examples": run.summary.get("test_examples"), "standard_error": run.summary.get("standard_error"),
            **{name: run.summary.get(name) for name in FIGURES}, "folder": str(run.folder),
        }  # fmt: skip


def round_rows(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A row a run and round; bytes and seconds are sums up to its end, ε the largest of any client."""
    for run, apart in zip(runs, _apart(runs), strict=True):
        records = list(read_records(run.folder))
        up = itertools.accumulate(record.bytes_up for record in records)
        down = itertools.accumulate(record.bytes_down for record in records)
        seconds = itertools.accumulate(record.seconds for record in records)
        for record, *sums in zip(records, up, down, seconds, strict=True):
            quality = record.evaluation
            yield {
                **_one_of(run), **apart, "round": record.round, "metric": run.metric.name,
                "score": None if quality is None else quality.value(run.metric.name),
                "loss": None if quality is None else quality.loss,
                **dict(zip(("bytes_up", "bytes_down", "seconds"), sums, strict=True)),
                "aggregation_error": record.aggregation_error, "epsilon": epsilon_in(record), "lr": record.lr,
            }  # fmt: skip


def epsilon_in(record: RoundRecord) -> float | None:
    """The largest ε that a client of the round has spent in this run; None without receipts."""
    return max((client.receipt.epsilon_run for client in record.clients if client.receipt is not None), default=None)


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Numbers in full; nothing where a value is not known."""
    found = list(rows)
    columns = dict.fromkeys(name for row in found for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(found)


def _one_of(run: Run) -> dict[str, Any]:
    trial = trial_in(run.summary)
    return {"group": None if trial is None else trial.group, "method": run.method, "seed": run.seed}


def _apart(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Every setting in which they differ, for each of them; empty where a run has it from its recipe."""
    found = own([run.changed for run in runs])
    names = dict.fromkeys(name for one in found for name in one)
    return [{name: value_words(one[name]) if name in one else "" for name in names} for one in found]

"""A row a method and setting: means over seeds, and which setting is the best."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedlora.settings import SettingsError
from fedlora.tasks.metric import Metric
from fedlora.tasks.verdict import STANDINGS
from simulations.comparing.finished import Run


@dataclass(frozen=True)
class Row:
    """One method at its best swept setting: mean and sample standard deviation over seeds."""

    method: str
    settings: str
    seeds: int
    metric: Metric
    score: float
    spread: float
    """Of the score: the sample standard deviation over seeds; 0 of one."""
    standard_error: float | None
    """Of one run's score on its test set, in the mean of the seeds; None where the task's judge knows none."""
    loss: float
    standing: str | None
    """The verdict of the task's judge (`fedlora.tasks.verdict`); of several seeds the worst."""
    aggregation_error_max: float | None
    megabytes_up: float
    megabytes_down: float
    epsilon: float | None
    seconds: float
    runs: tuple[Run, ...]


def best_rows(runs: Iterable[Run]) -> list[Row]:
    """For each method the swept setting with the best mean score, methods in the order given.

    Of settings with different numbers of seeds, those with most count: a sweep on one seed was their choice. The
    setting is chosen on the same shared test set that is reported: said wherever the table is printed.
    """
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in all_rows(runs):
        grouped[row.method].append(row)
    return [functools.reduce(preferred, rows) for rows in grouped.values()]


def preferred(row: Row, other: Row) -> Row:
    """The one with more seeds; of as many, the better one, or the first."""
    if row.seeds != other.seeds:
        return max(row, other, key=lambda row: row.seeds)
    return other if row.metric.better(other.score, row.score) else row


def all_rows(runs: Iterable[Run]) -> list[Row]:
    """Every method at every swept setting. SettingsError where what they are judged by differs."""
    runs = list(runs)
    judged_by = sorted({run.metric.name for run in runs})
    if len(judged_by) > 1:
        raise SettingsError(
            f"these runs belong to tasks with different main metrics ({', '.join(judged_by)}): compare runs of "
            "one task."
        )
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.method, run.settings].append(run)
    return [row_of(method, settings, found) for (method, settings), found in grouped.items()]


def row_of(method: str, settings: str, runs: Sequence[Run]) -> Row:
    def mean(key: str) -> float:
        return statistics.fmean(float(run.summary[key]) for run in runs)

    scores = [run.score for run in runs if run.score is not None]
    for run in runs:
        if run.score is None:
            raise SettingsError(
                f"{run.folder} was never evaluated, so it cannot be compared: its coordinator has no test set. "
                "Set held_out in server.yaml for the next run."
            )
    errors = [run.summary["aggregation_error_max"] for run in runs if run.summary["aggregation_error_max"] is not None]
    standings = [said for run in runs if (said := run.summary.get("standing")) is not None]
    sampled = [error for run in runs if (error := run.summary.get("standard_error")) is not None]
    epsilons = [run.summary["epsilon_max"] for run in runs if run.summary.get("epsilon_max") is not None]
    return Row(
        method=method,
        settings=settings,
        seeds=len(runs),
        metric=runs[0].metric,
        score=statistics.fmean(scores),
        spread=statistics.stdev(scores) if len(runs) > 1 else 0.0,
        standard_error=statistics.fmean(sampled) if sampled else None,
        loss=mean("loss"),
        standing=min(standings, key=STANDINGS.index) if standings else None,
        aggregation_error_max=max(errors) if errors else None,
        megabytes_up=mean("bytes_up") / 1e6,
        megabytes_down=mean("bytes_down") / 1e6,
        epsilon=max(epsilons) if epsilons else None,
        seconds=mean("seconds"),
        runs=tuple(runs),
    )

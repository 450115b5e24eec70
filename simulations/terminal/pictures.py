"""Pictures: one run's curves, and a comparison of several runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlora.tasks.metric import Metric
from server.record.before import read_before
from server.record.lines import read_records
from server.record.records import RoundRecord

MEGABYTE = 1e6
FLOAT32 = 2.0**-23
LEAST_ERROR = 1e-16  # exactly zero has no place on a logarithmic axis
MARGINS = {"left": 0.055, "right": 0.985, "bottom": 0.15, "top": 0.8, "wspace": 0.22}
Curves = npt.NDArray[np.float64]


def draw_curves(folder: Path, metric: Metric, *, title: str) -> None:
    """curves.png: quality, aggregation error and bytes of one run, round by round; the base first, where known."""
    rounds = list(read_records(folder))
    figure = Figure(figsize=(11, 3.4))  # laid out by hand: to measure every label takes longer than to draw them
    quality, error, traffic = figure.subplots(1, 3, gridspec_kw=MARGINS)
    evaluated = [(record.round, record.evaluation.value(metric.name)) for record in rounds if record.evaluation]
    if before := read_before(folder):
        evaluated.insert(0, (0, before.value(metric.name)))
    numbers = [record.round for record in rounds]
    quality.plot([number for number, _ in evaluated], [value for _, value in evaluated], "o-", color="tab:blue")
    label(quality, f"{metric.words} on the shared test set", "round")
    error.semilogy(numbers, [max(record.aggregation_error or 0, LEAST_ERROR) for record in rounds], "s-")
    error.set_ylim(min(1e-9, error.get_ylim()[0]), 2.0)
    error.axhline(FLOAT32, color="gray", linestyle="--", linewidth=0.8, label="resolution of float32")
    error.legend(fontsize=8)
    label(error, "aggregation error  ‖ΔW* - ΔW‖ / ‖ΔW*‖", "round")
    traffic.plot(numbers, cumulative(record.bytes_up for record in rounds), "^-", label="up")
    traffic.plot(numbers, cumulative(record.bytes_down for record in rounds), "v-", label="down")
    traffic.legend()
    label(traffic, "MB, all clients, cumulative", "round")
    figure.suptitle(title)
    figure.savefig(folder / "curves.png", dpi=110)


def draw_comparison(
    runs: Mapping[str, Sequence[Sequence[RoundRecord]]], metric: Metric, path: Path, *, levels: Mapping[str, float] = {}
) -> None:
    """Quality against rounds, megabytes and seconds, and aggregation error; per method the mean of its seeds and their
    range. `levels`: what has no rounds, such as guessing, as lines across."""
    figure = Figure(figsize=(18, 4.2), layout="constrained")
    by_round, by_bytes, by_time, by_error = figure.subplots(1, 4)
    for axes in (by_bytes, by_time):
        axes.sharey(by_round)
    for index, (name, seeds) in enumerate(runs.items()):
        line: dict[str, Any] = {"color": f"C{index % 10}", "marker": "os^vD"[index // 10 % 5], "markersize": 4}
        line |= {"linestyle": ["-", "--", ":"][index // 10 % 3], "label": name}
        evaluated, values = curves_of(seeds, lambda record: value_of(record, metric))
        cost = cumulative(record.bytes_up + record.bytes_down for record in seeds[0])
        total = dict(zip((record.round for record in seeds[0]), cost, strict=True))
        draw_band(by_round, evaluated, values, line)
        draw_band(by_bytes, [total[number] for number in evaluated], values, line)
        draw_band(by_time, seconds_by(seeds, evaluated), values, line)
        reported, errors = curves_of(seeds, lambda record: record.aggregation_error)
        draw_band(by_error, reported, np.maximum(errors, LEAST_ERROR), line)
    for index, (name, level) in enumerate(levels.items()):
        for axes in (by_round, by_bytes, by_time):
            axes.axhline(level, color="gray", linestyle=[":", "-.", "--"][index % 3], linewidth=1, label=name)
    label(by_round, f"{metric.words}: mean and range over seeds", "round")
    label(by_bytes, "the same against what it cost", "MB up and down, all clients")
    label(by_time, "the same against time", "s, mean over seeds")
    by_error.set_yscale("log")
    by_error.axhline(FLOAT32, color="gray", linestyle="--", linewidth=0.8)
    label(by_error, "aggregation error  ‖ΔW* - ΔW‖ / ‖ΔW*‖  (dashed: float32)", "round")
    handles, names = by_round.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)


def value_of(record: RoundRecord, metric: Metric) -> float | None:
    return None if record.evaluation is None else record.evaluation.value(metric.name)


def curves_of(
    seeds: Sequence[Sequence[RoundRecord]], value: Callable[[RoundRecord], float | None]
) -> tuple[list[int], Curves]:
    """The rounds that every seed has a value for, and the values, a row a seed; both empty where there are none."""
    found = [{record.round: value(record) for record in rounds if value(record) is not None} for rounds in seeds]
    numbers = sorted(set.intersection(*(set(curve) for curve in found))) if found else []
    return numbers, np.array([[curve[number] for number in numbers] for curve in found], dtype=np.float64)


def seconds_by(seeds: Sequence[Sequence[RoundRecord]], numbers: Sequence[int]) -> list[float]:
    """Seconds from the start to the end of these rounds, in the mean of the seeds."""
    spent = [np.cumsum([record.seconds for record in rounds]) for rounds in seeds]
    return [float(np.mean([one[number - 1] for one in spent])) for number in numbers]


def draw_band(axes: Axes, x: Sequence[float], curves: Curves, line: Mapping[str, Any]) -> None:
    """The mean of the curves, and their range behind it."""
    if curves.size == 0:
        return
    axes.plot(x, curves.mean(axis=0), **line)
    axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=line["color"], alpha=0.12, linewidth=0)


def cumulative(counts: Iterable[int]) -> list[float]:
    """Their running total, bytes as megabytes."""
    return [total / MEGABYTE for total in itertools.accumulate(counts)]


def label(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.grid(alpha=0.3)
    if x == "round":
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))

"""Pictures where people look rather than read: one run's curves, and several runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server.record.summary import read_rounds

MEGABYTE = 1e6
FLOAT32 = 2.0**-23
LEAST_ERROR = 1e-16  # exactly zero has no place on a logarithmic axis
Curves = npt.NDArray[np.float64]


def draw_curves(folder: Path, *, title: str) -> None:
    """curves.png: quality, aggregation error and bytes of one run, round by round."""
    rounds = read_rounds(folder)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    quality, error, traffic = figure.subplots(1, 3)
    evaluated = [row for row in rounds if row["evaluation"]]
    numbers = [row["round"] for row in evaluated]
    quality.plot(numbers, [row["evaluation"]["accuracy"] for row in evaluated], "o-", color="tab:blue")
    label(quality, "accuracy on the shared test set", "round")
    error.semilogy(
        [row["round"] for row in rounds], [max(row["aggregation_error"] or 0, LEAST_ERROR) for row in rounds], "s-"
    )
    error.set_ylim(min(1e-9, error.get_ylim()[0]), 2.0)
    error.axhline(FLOAT32, color="gray", linestyle="--", linewidth=0.8, label="resolution of float32")
    error.legend(fontsize=8)
    label(error, "aggregation error  ‖ΔW* - ΔW‖ / ‖ΔW*‖", "round")
    traffic.plot([row["round"] for row in rounds], cumulative(rounds, "bytes_up"), "^-", label="up")
    traffic.plot([row["round"] for row in rounds], cumulative(rounds, "bytes_down"), "v-", label="down")
    traffic.legend()
    label(traffic, "MB, all clients, cumulative", "round")
    figure.suptitle(title)
    figure.savefig(folder / "curves.png", dpi=110)


def draw_comparison(runs: Mapping[str, Sequence[list[dict[str, Any]]]], path: Path) -> None:
    """Quality against rounds and megabytes, and aggregation error; per method the mean of its seeds and their range."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    by_round, by_bytes, by_error = figure.subplots(1, 3)
    by_bytes.sharey(by_round)
    for index, (name, seeds) in enumerate(runs.items()):
        line: dict[str, Any] = {"color": f"C{index % 10}", "marker": "os^vD"[index // 10 % 5], "markersize": 4}
        line |= {"linestyle": ["-", "--", ":"][index // 10 % 3], "label": name}
        evaluated, accuracies = curves_of(seeds, lambda row: row["evaluation"] and row["evaluation"]["accuracy"])
        total = dict(
            zip((row["round"] for row in seeds[0]), cumulative(seeds[0], "bytes_up", "bytes_down"), strict=True)
        )
        draw_band(by_round, evaluated, accuracies, line)
        draw_band(by_bytes, [total[number] for number in evaluated], accuracies, line)
        reported, errors = curves_of(seeds, lambda row: row["aggregation_error"])
        draw_band(by_error, reported, np.maximum(errors, LEAST_ERROR), line)
    label(by_round, "accuracy: mean and range over seeds", "round")
    label(by_bytes, "the same against what it cost", "MB up and down, all clients")
    by_error.set_yscale("log")
    by_error.axhline(FLOAT32, color="gray", linestyle="--", linewidth=0.8)
    label(by_error, "aggregation error  ‖ΔW* - ΔW‖ / ‖ΔW*‖  (dashed: float32)", "round")
    handles, names = by_round.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)


def curves_of(
    seeds: Sequence[list[dict[str, Any]]], value: Callable[[dict[str, Any]], float | None]
) -> tuple[list[int], Curves]:
    """The rounds that every seed has a value for, and the values, a row a seed; both empty where there are none."""
    found = [{row["round"]: value(row) for row in rounds if value(row) is not None} for rounds in seeds]
    numbers = sorted(set.intersection(*(set(curve) for curve in found))) if found else []
    return numbers, np.array([[curve[number] for number in numbers] for curve in found], dtype=np.float64)


def draw_band(axes: Axes, x: Sequence[float], curves: Curves, line: Mapping[str, Any]) -> None:
    """The mean of the curves, and their range behind it."""
    if curves.size == 0:
        return
    axes.plot(x, curves.mean(axis=0), **line)
    axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=line["color"], alpha=0.12, linewidth=0)


def cumulative(rounds: Sequence[Mapping[str, Any]], *keys: str) -> list[float]:
    """Running total in megabytes of the given byte counts."""
    total, totals = 0.0, []
    for row in rounds:
        total += sum(row[key] for key in keys) / MEGABYTE
        totals.append(total)
    return totals


def label(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.grid(alpha=0.3)

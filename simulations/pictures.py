"""Pictures where people look rather than read: one run's curves, and several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEGABYTE = 1e6
FLOAT32 = 2.0**-23


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's rounds.jsonl."""
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]


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
        [row["round"] for row in rounds], [max(row["aggregation_error"] or 0, 1e-16) for row in rounds], "s-"
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
    """One picture: quality against rounds and against megabytes; per method the mean of its seeds and their range."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for index, (name, seeds) in enumerate(runs.items()):
        accuracies = [[row["evaluation"]["accuracy"] for row in rounds if row["evaluation"]] for rounds in seeds]
        rows = min(len(curve) for curve in accuracies)
        if rows == 0:
            continue
        curves = np.array([curve[:rows] for curve in accuracies])
        evaluated = [row["round"] for row in seeds[0] if row["evaluation"]][:rows]
        total = dict(
            zip((row["round"] for row in seeds[0]), cumulative(seeds[0], "bytes_up", "bytes_down"), strict=True)
        )
        line: dict[str, Any] = {"color": f"C{index % 10}", "marker": "os^vD"[index // 10 % 5], "markersize": 4}
        for axes, x in ((by_round, evaluated), (by_bytes, [total[number] for number in evaluated])):
            axes.plot(x, curves.mean(axis=0), label=name, **line)
            axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=line["color"], alpha=0.12, linewidth=0)
    label(by_round, "accuracy: mean and range over seeds", "round")
    label(by_bytes, "the same against what it cost", "MB up and down, all clients")
    by_round.legend(fontsize=8)
    figure.savefig(path, dpi=110)


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

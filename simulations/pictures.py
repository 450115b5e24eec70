"""Pictures where people look rather than read: one run's curves, and several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEGABYTE = 1e6


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
    label(error, "aggregation error  ‖ΔW* - ΔW‖ / ‖ΔW*‖", "round")
    traffic.plot([row["round"] for row in rounds], cumulative(rounds, "bytes_up"), "^-", label="up")
    traffic.plot([row["round"] for row in rounds], cumulative(rounds, "bytes_down"), "v-", label="down")
    traffic.legend()
    label(traffic, "MB, all clients, cumulative", "round")
    figure.suptitle(title)
    figure.savefig(folder / "curves.png", dpi=110)


def draw_comparison(runs: Mapping[str, Sequence[list[dict[str, Any]]]], path: Path) -> None:
    """One picture: quality against rounds and against megabytes; a line a method, a band over its seeds."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for name, seeds in runs.items():
        for index, rounds in enumerate(seeds):
            evaluated = [row for row in rounds if row["evaluation"]]
            accuracy = [row["evaluation"]["accuracy"] for row in evaluated]
            total = dict(
                zip((row["round"] for row in rounds), cumulative(rounds, "bytes_up", "bytes_down"), strict=True)
            )
            color = f"C{list(runs).index(name) % 10}"
            style: dict[str, Any] = {"color": color, "alpha": 0.85, "marker": "o", "markersize": 3}
            by_round.plot([row["round"] for row in evaluated], accuracy, label=name if index == 0 else None, **style)
            by_bytes.plot([total[row["round"]] for row in evaluated], accuracy, **style)
    label(by_round, "accuracy", "round")
    label(by_bytes, "accuracy", "MB up and down, all clients")
    by_bytes.set_xscale("symlog")
    by_round.legend()
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

"""Runs side by side: finished folders or recipes run now; seeds and swept settings; table, CSV, one picture."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedlora.config import Recipe, load
from fedlora.privacy.shown import at_most
from fedlora.settings import SettingsError
from fedlora.tasks.guessing import ACCURACY
from fedlora.tasks.metric import LOSS, Metric
from fedlora.tasks.verdict import STANDINGS
from server.record.lines import read_records
from simulations.terminal.pictures import draw_comparison


@dataclass(frozen=True)
class Run:
    """One finished run: which method, with which swept settings and seed, and where its files are."""

    method: str
    settings: str
    seed: int
    folder: Path
    summary: Mapping[str, Any]

    @property
    def metric(self) -> Metric:
        """The metric by which it is compared; older summaries say none: ACCURACY."""
        named: str | None = self.summary.get("metric")
        return ACCURACY if named is None else Metric(named, self.summary["larger_is_better"])

    @property
    def score(self) -> float | None:
        """The metric's value; None where it was never evaluated."""
        value: float | None = self.summary["score" if "score" in self.summary else self.metric.name]
        return value


@dataclass(frozen=True)
class Planned:
    """One run to do: the recipe file, its overrides, and the folder that holds the result once it is finished."""

    method: str
    recipe: str
    overrides: tuple[str, ...]
    settings: str
    seed: int
    folder: Path


def plan(
    recipes: Sequence[str],
    sweeps: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    variants: Sequence[str] = (),
) -> list[Planned]:
    """Every recipe in every variant, with every combination of swept values and every seed.

    A sweep is `key=v1,v2,v3`, or `recipe-name:key=v1,v2` for one recipe only; a variant `name:key=value,key=value`.
    """
    planned = []
    for recipe, (variant, changed) in itertools.product(recipes, map(variant_of, variants or [""])):
        name = Path(recipe).stem
        axes = [axis for sweep in sweeps if (axis := sweep_axis(sweep, name))]
        for values in itertools.product(*axes):
            for seed in seeds:
                settings = " ".join(values)
                folder = out / name / variant.replace("/", "-")
                folder = folder / (settings.replace("=", "-").replace(" ", "_") or "default") / f"seed-{seed}"
                own = (*overrides, *changed, *values, f"seed={seed}")
                planned.append(Planned(method_of(recipe, variant), recipe, own, settings, seed, folder))
    return planned


def variant_of(text: str) -> tuple[str, list[str]]:
    """Name and overrides of a variant; no settings at all for a name alone.

    >>> variant_of("1/16 both:wire.density=0.0625,wire.download=changes"), variant_of("dense")
    (('1/16 both', ['wire.density=0.0625', 'wire.download=changes']), ('dense', []))
    """
    name, _, changed = text.partition(":")
    if "=" in name:
        raise SettingsError(f"--variant {text!r}: write it as NAME:key=value,key=value.")
    return name, changed.split(",") if changed else []


def sweep_axis(sweep: str, recipe: str) -> list[str]:
    """`key=value` for each value of the sweep, or nothing if it is for another recipe.

    >>> sweep_axis("train.lr=0.1,0.2", "ffa"), sweep_axis("fedsvd:train.lr=1", "ffa")
    (['train.lr=0.1', 'train.lr=0.2'], [])
    """
    only, colon, rest = sweep.partition(":")
    if colon and only != recipe:
        return []
    key, equals, values = (rest if colon else sweep).partition("=")
    if not equals or not values:
        raise SettingsError(f"--sweep {sweep!r}: write it as key=value1,value2, for example --sweep train.lr=0.05,0.1.")
    return [f"{key}={value}" for value in values.split(",")]


def repeated(
    runs: Sequence[Run],
    recipes: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    variants: Sequence[str] = (),
) -> list[Planned]:
    """Each method's best setting of `runs` once more with these seeds: a sweep on one seed, the spread over several."""
    best = {row.method: row.settings for row in best_rows(runs)}
    planned = []
    for recipe, variant in itertools.product(recipes, variants or [""]):
        sweeps = best[method_of(recipe, variant_of(variant)[0])].split()
        planned += plan([recipe], sweeps, seeds, overrides, out, [variant])
    return planned


def method_of(recipe: str, variant: str) -> str:
    return f"{Path(recipe).stem} {variant}".strip()


class Simulate(Protocol):
    """Runs a recipe to the end, from its checkpoint where `resume` says so."""

    def __call__(self, recipe: Recipe, folder: Path, *, resume: bool) -> object: ...


def run_missing(planned: Sequence[Planned], simulate: Simulate, *, say: Callable[[str], None]) -> list[Run]:
    """Run what is not finished yet: a finished folder has a complete summary.json, an interrupted one a checkpoint."""
    runs = []
    for number, item in enumerate(planned, start=1):
        if not is_finished(item.folder):
            say(" ".join([f"{number} of {len(planned)}:", item.method, item.settings, f"seed {item.seed}"]))
            begun = (item.folder / "checkpoint.safetensors").exists()
            simulate(load(item.recipe, item.overrides), item.folder, resume=begun)
        runs.append(finished(item.folder, method=item.method, settings=item.settings))
    return runs


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds a summary, and of a run that was not stopped on the way."""
    try:
        finished(folder)
    except SettingsError:
        return False
    return True


def finished(folder: Path, *, method: str | None = None, settings: str = "") -> Run:
    """A run's folder as a Run; SettingsError when it is not one."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except OSError:
        raise SettingsError(f"{folder} contains no finished run (no summary.json); run it, or --resume it.") from None
    if summary.get("state", "finished") != "finished":
        raise SettingsError(f"{folder} was stopped after round {summary['rounds']}; --resume it.")
    return Run(method or str(summary["name"]), settings, int(summary["seed"]), folder, summary)


@dataclass(frozen=True)
class Row:
    """One method at its best swept setting: mean and sample standard deviation over seeds."""

    method: str
    settings: str
    seeds: int
    metric: Metric
    score: float
    spread: float
    """Of the score."""
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
    epsilons = [run.summary["epsilon_max"] for run in runs if run.summary.get("epsilon_max") is not None]
    return Row(
        method=method,
        settings=settings,
        seeds=len(runs),
        metric=runs[0].metric,
        score=statistics.fmean(scores),
        spread=statistics.stdev(scores) if len(runs) > 1 else 0.0,
        loss=mean("loss"),
        standing=min(standings, key=STANDINGS.index) if standings else None,
        aggregation_error_max=max(errors) if errors else None,
        megabytes_up=mean("bytes_up") / 1e6,
        megabytes_down=mean("bytes_down") / 1e6,
        epsilon=max(epsilons) if epsilons else None,
        seconds=mean("seconds"),
        runs=tuple(runs),
    )


def cells(row: Row) -> dict[str, str]:
    """A row as text, by column. The loss has one of its own where it is not what runs are compared by."""
    error = "-" if row.aggregation_error_max is None else f"{row.aggregation_error_max:.1e}"
    score = f"{row.score:.4f}" + (f" ± {row.spread:.4f}" if row.seeds > 1 else "")
    epsilon = "-" if row.epsilon is None else at_most(row.epsilon)
    loss = {} if row.metric.name == LOSS.name else {LOSS.words: f"{row.loss:.4f}"}
    return {
        "method": row.method, "setting": row.settings or "-", "seeds": str(row.seeds), row.metric.words: score,
        "verdict": row.standing or "-", **loss, "agg. error": error, "MB up": f"{row.megabytes_up:.2f}",
        "MB down": f"{row.megabytes_down:.2f}", "ε": epsilon, "s": f"{row.seconds:.0f}",
    }  # fmt: skip


def write_outputs(rows: Sequence[Row], everything: Sequence[Row], out: Path) -> None:
    """comparison.csv (every setting), comparison.md (the best of each method), comparison.png."""
    out.mkdir(parents=True, exist_ok=True)
    columns = list(cells(rows[0]))
    with (out / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(cells(row) for row in everything)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cells(row).values()) + " |" for row in rows]
    (out / "comparison.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    curves = {
        row.method: [list(read_records(run.folder)) for run in row.runs if (run.folder / "rounds.jsonl").exists()]
        for row in rows
    }
    drawn = {name: found for name, found in curves.items() if found}
    draw_comparison(drawn, rows[0].metric, out / "comparison.png")

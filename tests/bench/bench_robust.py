"""What each defence does against each attack, and what it does not: accuracy on the shared test set.

    python -m tests.bench.bench_robust                    # the tables of docs/robustness.md, some minutes
    python -m tests.bench.bench_robust --seeds 0 --rounds 3

The demo corpus in eight Dirichlet parts, two of them attackers (drawn from the seed), on the first layer of the demo
encoder; mean and sample standard deviation over seeds. `left out` counts, per round, attackers and honest clients
that were not let in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from transformers import AutoModel, AutoTokenizer

from fedlora.config import Recipe, override
from fedlora.models.base import locate
from fedlora.settings import parse
from simulations.run import Simulation, prepare, simulate

ATTACKS = ("none", "label-flip", "sign-flip", "scaled", "colluding", "overclaim")
DEFENCES = {
    "mean by examples": (),
    "capped weights": ("rounds.max_weight=1000",),
    "clip-to-median": ("robust.rule=clip-to-median",),
    "screen": ("robust.rule=screen",),
    "multi-krum": ("robust.rule=multi-krum",),
    "median": ("robust.rule=median",),
    "trimmed-mean": ("robust.rule=trimmed-mean",),
}
GAUGE_DEFENCES = ("mean by examples", "clip-to-median", "median")
CLIENTS, ATTACKERS, LAYERS = 8, 2, 1


@dataclass(frozen=True)
class Cell:
    """One defence against one attack, over the seeds."""

    accuracies: tuple[float, ...]
    attackers_out: float
    honest_out: float

    def __str__(self) -> str:
        spread = statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0
        out = f" ({self.attackers_out:.1f} + {self.honest_out:.1f})" if self.attackers_out + self.honest_out else ""
        return f"{statistics.fmean(self.accuracies):.3f} ± {spread:.3f}{out}"


def small_encoder(folder: Path) -> str:
    """The first layers of the demo encoder as a local model."""
    source = locate("demo")
    encoder = AutoModel.from_pretrained(source)
    encoder.encoder.layer = encoder.encoder.layer[:LAYERS]
    encoder.config.num_hidden_layers = LAYERS
    encoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


def recipe(model: str, seed: int, rounds: int, *overrides: str) -> Recipe:
    values = {
        "model": {"id": model, "max_tokens": 16},
        "data": {
            "partition": "dirichlet", "clients": CLIENTS, "alpha": 1.0, "held_out": 400, "test_fraction": 0.01,
        },
        "strategy": {"name": "fedsvd"},
        "train": {"optimizer": "adamw", "lr": 0.01, "head_lr": 0.01, "batch_size": 8, "steps": 4},
        "rounds": {"count": rounds, "evaluate_every": rounds},
        "robust": {"attackers": ATTACKERS},
        "seed": seed,
    }  # fmt: skip
    return parse(Recipe, override(values, overrides))


def one(simulation: Simulation, wanted: Recipe) -> tuple[float, float, float]:
    """Accuracy, and how many attackers and honest clients a round left out, on average."""
    ready = Simulation(wanted, simulation.data, simulation.loaded_model)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("simulations.run.by_client", return_value={}),
        mock.patch("simulations.run.draw_curves"),
    ):
        summary = simulate(ready, Path(folder) / "run", watch=lambda event: None)
        lines = [json.loads(text) for text in (Path(folder) / "run/rounds.jsonl").read_text().splitlines()]
    liars = set(summary.get("attackers", ()))
    out = [client["client"] in liars for line in lines for client in line["clients"] if client["outcome"] != "trained"]
    return float(summary["accuracy"]), sum(out) / len(lines), (len(out) - sum(out)) / len(lines)


def cells(
    model: str, seeds: Sequence[int], rounds: int, attacks: Sequence[str], defences: Sequence[str], *overrides: str
) -> Iterator[tuple[str, str, Cell]]:
    """(attack, defence, cell) for every pair; data and model are loaded once per seed."""
    ready = {seed: prepare(recipe(model, seed, rounds)) for seed in seeds}
    for attack in attacks:
        lies = () if attack == "none" else (f"attack.kind={attack}", f"attack.clients={ATTACKERS}")
        for defence in defences:
            found = [
                one(ready[seed], recipe(model, seed, rounds, *lies, *DEFENCES[defence], *overrides)) for seed in seeds
            ]
            accuracies, liars, honest = zip(*found, strict=True)
            yield attack, defence, Cell(accuracies, statistics.fmean(liars), statistics.fmean(honest))


def table(found: Iterator[tuple[str, str, Cell]], attacks: Sequence[str], defences: Sequence[str]) -> str:
    """A Markdown table, a row a defence."""
    by_pair = {}
    for attack, defence, cell in found:
        by_pair[attack, defence] = cell
        print(f"{attack}, {defence}: {cell}", file=sys.stderr, flush=True)
    lines = ["| | " + " | ".join(attacks) + " |", "|" + "---|" * (len(attacks) + 1)]
    lines += [
        f"| {defence} | " + " | ".join(str(by_pair[attack, defence]) for attack in attacks) + " |"
        for defence in defences
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="comma-separated")
    parser.add_argument("--defences", default=",".join(DEFENCES), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        model = small_encoder(Path(folder) / "model")
        attacks, defences = arguments.attacks.split(","), arguments.defences.split(",")
        print("FedSVD (B and the head travel)\n")
        print(table(cells(model, seeds, arguments.rounds, attacks, defences), attacks, defences), flush=True)
        print("\nFedIT (A, B and the head travel), the same ΔW in another gauge (scale 10)\n")
        fedit = cells(model, seeds, arguments.rounds, ("none", "regauge"), GAUGE_DEFENCES, "strategy.name=fedit")
        print(table(fedit, ("none", "regauge"), GAUGE_DEFENCES))


if __name__ == "__main__":
    main()

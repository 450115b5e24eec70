"""summary.json: what a run has come to, computed from its folder. A simulation adds what only it can know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlora.config import Recipe
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.spent import privacy_summary
from fedlora.versions import versions
from server.checkpoint import Progress
from server.coordinate import FIRST_STEP
from server.packing_summary import packing_summary


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's rounds.jsonl."""
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]


def summary_of(recipe: Recipe, progress: Progress, folder: Path) -> dict[str, Any]:
    """One federation's. Quality is that of the last round that was evaluated; None where none was."""
    rounds = read_rounds(folder)
    evaluated = [line["evaluation"] for line in rounds if line["evaluation"] is not None]
    quality = evaluated[-1] if evaluated else {"accuracy": None, "loss": None}
    return {
        "name": recipe.name,
        "mode": recipe.mode,
        "strategy": recipe.strategy.name,
        "rounds": progress.round,
        "clients": len({client["client"] for line in rounds for client in line["clients"]}),
        "accuracy": quality["accuracy"],
        "loss": quality["loss"],
        "bytes_up": progress.bytes_up,
        "bytes_down": progress.bytes_down,
        "aggregation_error_max": largest_error([rounds]),
        "seconds": sum(line["seconds"] for line in rounds),
        "seed": recipe.seed,
        "versions": versions(),
        "adapter_dir": str(folder / "adapter"),
        "initialisation": recipe.adapter.start,
        **first_step_spent([folder], [rounds]),
        **packing_summary([rounds]),
        **privacy_summary(recipe, receipts([rounds]), rounds=progress.round),
    }


def largest_error(rounds: Iterable[Iterable[Mapping[str, Any]]]) -> float | None:
    """The largest aggregation error of all rounds of all federations; None where none was measured."""
    errors = [row["aggregation_error"] for lines in rounds for row in lines if row["aggregation_error"] is not None]
    return max(errors) if errors else None


def first_step_spent(folders: Iterable[Path], rounds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What a first step from the clients' gradients cost them besides the run, and both composed by their ledgers.

    The composed figure is a ledger's own: everything that the site's data have ever spent, so never too small.
    """
    found = [folder / FIRST_STEP for folder in folders if (folder / FIRST_STEP).exists()]
    first = list(receipts(read_rounds(folder) for folder in found))
    if not first:
        return {}
    last: dict[str, Receipt] = {}
    for receipt in [*first, *receipts(rounds)]:
        if receipt.client not in last or receipt.sequence > last[receipt.client].sequence:
            last[receipt.client] = receipt
    return {
        "first_step_epsilon_max": max(receipt.epsilon_run for receipt in first),
        "epsilon_max_with_first_step": max(receipt.epsilon_lifetime for receipt in last.values()),
    }


def receipts(rounds: Iterable[Iterable[Mapping[str, Any]]]) -> Iterator[Receipt]:
    """Every receipt in the lines of rounds.jsonl, of all federations."""
    for lines in rounds:
        for line in lines:
            for client in line["clients"]:
                if client.get("receipt") is not None:
                    yield Receipt.model_validate(client["receipt"])

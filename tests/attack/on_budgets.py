"""Attacks on what is counted: ε that is forgotten, foretold too low, or begun anew. `make attack` runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flwr.app import Message

from fedlora.config import Recipe
from fedlora.privacy.accounting import epsilon
from fedlora.privacy.guard import Guard
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.privacy.policy import SIMULATION, DatasetPolicy, Policy
from fedlora.privacy.receipt import verified
from fedlora.privacy.refusal import Refusal
from fedlora.privacy.spending import event_of
from fedlora.settings import parse
from server.runs.launch import planned_epsilon
from server.stages import client_level
from simulations.local_grid import FIRST_NODE, Fault
from simulations.run import prepare, simulate
from tests.attack.attack import Gain
from tests.attack.scene import asked, messages, named, run_of, site_with, small_recipe
from tests.privacy.tasks import guard, task

LATE = "white"


def forgotten(folder: Path) -> Gain:
    """Four sites, one of them late in every round: charged, never counted."""
    recipe = small_recipe(folder, "rounds.quorum=0.5", "rounds.grace_s=0.1")
    simulation = prepare(recipe)
    late = FIRST_NODE + list(simulation.data.clients).index(LATE)

    def fault(node: int, message: Message) -> Fault | None:
        return Fault("delay", delay_s=1e6) if node == late else None

    summary = simulate(simulation, folder / "run", watch=lambda event: None, faults=fault)
    charged = spent(folder / "run" / "sites" / LATE, delta=recipe.privacy.delta)
    shown = shown_for(summary, LATE)
    return Gain(f"charged {charged:.3f}, shown {shown:.3f}", shown >= charged - 1e-6)


def spent(site: Path, *, delta: float) -> float:
    """ε of a simulated site's ledger."""
    entries = inspect_ledger(LedgerFiles(site, "default")).entries
    return epsilon([event_of(entry.fields) for entry in entries if entry.kind == "charge"], delta=delta)


def shown_for(summary: dict[str, Any], site: str) -> float:
    """What the summary says of a site; 0 where it says nothing."""
    return float(summary.get("epsilon_by_client", {}).get(site, 0.0))


RECIPE = {
    "privacy": {"noise_multiplier": 0.8, "spare_rounds": 10},
    "train": {"batch_size": 32, "steps": 4},
    "rounds": {"count": 8},
}


def foretold(folder: Path) -> Gain:
    """What the page says beforehand that a run costs at most, and what a guard grants until it refuses."""
    recipe, said, held = parse(Recipe, RECIPE), [], True
    for examples in (1990, 499):
        before, after = planned_epsilon(recipe, examples=examples), granted(recipe, examples, folder / str(examples))
        assert before is not None
        said.append(f"{before:.2f} for {after:.2f} ({examples} examples)")
        held &= before >= after - 1e-6
    return Gain(", ".join(said), held)


def granted(recipe: Recipe, examples: int, site: Path) -> float:
    """ε in the last receipt that the guard gives in one run."""
    found, watched = 0.0, guard(site, SIMULATION)
    for number in range(1, recipe.most_charges + 1):
        one = task(
            round=number,
            rounds=recipe.most_charges,
            privacy=recipe.privacy.model_dump(),
            train={"batch_size": 32, "steps": 4},
        )
        grant = watched.authorise(one, b"%d" % number, examples=examples)
        assert grant.receipt is not None
        found = verified(grant.receipt).epsilon_run
    return found


def connected(folder: Path) -> Gain:
    """Client-level privacy with four sites connected and with three: over how many the same noise is spread."""
    recipe = small_recipe(
        folder,
        "privacy.epsilon=null",
        "privacy.client_level={clip: 0.5, noise_multiplier: 2.0, clients: 4}",
        "rounds.count=1",
    )
    simulation, counted = prepare(recipe), []
    protect = client_level.protected

    def watched(*given: Any, **options: Any) -> Any:
        made = list(protect(*given, **options))
        counted.append(round(sum(update.weight for update in made)))
        return iter(made)

    names = list(simulation.data.clients)
    for few in (names, names[:3]):
        part = {name: simulation.data.clients[name] for name in few}
        with patch.object(client_level, "protected", watched):
            now = replace(simulation, data=replace(simulation.data, clients=part))
            simulate(now, folder / f"run-{len(few)}", watch=lambda event: None)
    return Gain(f"the noise is divided by {counted[0]} with four, by {counted[1]} with three", counted[0] == counted[1])


def other_name(folder: Path) -> Gain:
    """The same files as another dataset, at the same site."""
    site = site_with(folder / "site", messages(60))
    task, blob = run_of(small_recipe(folder), site, folder).task_for_a_new_site()
    first, second = asked(task, blob, site), asked(task, blob, named(site, "another"))
    return Gain(f"first {first}, then {second}", (first, second) == ("trained", second) and second != "trained")


def delta_by_size(folder: Path) -> Gain:
    """δ just below one in the declared 90,000, at a site that has so many and at one that has one more."""
    bounds = Policy(**{**SIMULATION.model_dump(), "datasets": {"tickets": DatasetPolicy(public_examples=90_000)}})
    told = []
    for examples in (90_000, 90_001):
        one = task(privacy={"epsilon": 3.0, "delta": 1.1e-5})
        told.append(answer_of(guard(folder / str(examples), bounds), one, examples))
    return Gain(f"{told[0]} with 90,000, {told[1]} with 90,001", told[0] == told[1])


def answer_of(watched: Guard, one: Any, examples: int) -> str:
    try:
        watched.authorise(one, b"", examples=examples)
    except Refusal as refusal:
        return refusal.code
    return "granted"


def ladder_step(folder: Path) -> Gain:
    """1,999 examples and 2,000: the sampling rate in the receipt, with a size declared and without."""
    declared = Policy(**{**SIMULATION.model_dump(), "datasets": {"tickets": DatasetPolicy(public_examples=1900)}})
    rates = {
        name: [rate_of(guard(folder / f"{name}-{n}", policy), n) for n in (1999, 2000)]
        for name, policy in (("declared", declared), ("undeclared", SIMULATION))
    }
    said = ", ".join(f"{name} {low:.5f} and {high:.5f}" for name, (low, high) in rates.items())
    return Gain(f"q: {said}", rates["declared"][0] == rates["declared"][1])


def rate_of(watched: Guard, examples: int) -> float:
    grant = watched.authorise(task(), b"", examples=examples)
    assert grant.receipt is not None
    return verified(grant.receipt).rate

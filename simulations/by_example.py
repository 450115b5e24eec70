"""test_examples.json: what every example of the shared test set came to, for paired tests between runs.

Figures alone, in the order of the test set, and a digest that says whether two runs have the same one: nothing of the
examples. Only a simulation has it, and only in a comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedlora.data.examples import digest_of, has_loss
from fedlora.files import write_atomically
from fedlora.models.base import autocast
from fedlora.models.reference import referred
from fedlora.tasks.base import Mean
from server.coordinate import load_state
from simulations.simulation import Simulation
from strategies.base import State

FILE = "test_examples.json"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ByExample:
    """Of one run, its figures example by example: (n, 2), the total and its weight (`fedlora.tasks.base.Mean`)."""

    digest: str
    figures: Mapping[str, Values]


@torch.inference_mode()
def measured_each(simulation: Simulation, state: State) -> list[Mapping[str, Mean]]:
    """The task's `measure` of every test example by itself; of one that has no loss, nothing."""
    load_state(simulation.loaded_model, "held-out", state)
    model, on = simulation.loaded_model.model.eval(), simulation.placed.model
    ready = referred(model, simulation.data.held_out, on=on, at_once=1, each=False)
    found: list[Mapping[str, Mean]] = []
    for place, item in enumerate(ready.items):
        if has_loss(item):
            with autocast(on):
                found.append(ready.task.measure(model, ready.batch([place], device=on.device)))
    return found


def write_each(folder: Path, simulation: Simulation, states: Sequence[State]) -> None:
    """Of several states (mode `alone`) their mean, example by example."""
    by_state = [measured_each(simulation, state) for state in states]
    figures = {
        name: [
            [sum(one[name].total for one in each), sum(one[name].weight for one in each)]
            for each in zip(*by_state, strict=True)
        ]
        for name in by_state[0][0]
    }
    content = {"digest": digest_of(simulation.data.held_out), "figures": figures}
    write_atomically(folder / FILE, json.dumps(content).encode())


def read_each(folder: Path) -> ByExample | None:
    """None where the run kept none, or nothing that can be read."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        values = {name: np.array(each, dtype=np.float64).reshape(-1, 2) for name, each in found["figures"].items()}
        return ByExample(str(found["digest"]), values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

"""A recipe made ready to be simulated: its data in parts, the base model loaded as this machine computes."""

from __future__ import annotations

from dataclasses import dataclass

from fedlora.config import Recipe
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.models.evaluation import evaluate_examples
from fedlora.models.loaded_model import LoadedModel
from fedlora.protocol.task import Evaluation
from fedlora.tasks.metric import Metric
from fedlora.tasks.registry import task_named
from server.coordinate import load_state
from simulations.data.partition import Federation
from strategies.base import State


@dataclass(frozen=True)
class Simulation:
    """Several runs may share the parts of one."""

    recipe: Recipe
    data: Federation
    loaded_model: LoadedModel
    compute: ComputeSettings = OWN
    """How this machine computes; the model is loaded for it."""

    @property
    def placed(self) -> Recipe:
        """The recipe as this machine computes it: never sent or kept."""
        return self.compute.placed(self.recipe)

    @property
    def metric(self) -> Metric:
        """What the task's runs are compared by."""
        return task_named(self.recipe.model.task).compare_by


def on_held_out(simulation: Simulation, state: State) -> Evaluation:
    """A state on the shared test set."""
    load_state(simulation.loaded_model, "held-out", state)
    return evaluate_examples(simulation.loaded_model.model, simulation.data.held_out, by=simulation.placed)

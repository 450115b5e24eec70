"""Input of a rule: a recipe, its strategy, and where the run takes place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlora.config import Recipe
from fedlora.data.chosen_columns import columns_for
from fedlora.factor import Factor
from fedlora.plugins.optimizers import maker_of
from fedlora.tasks.metric import Metric
from fedlora.tasks.registry import task_named
from strategies.base import Strategy, Traits
from strategies.registry import SERVER_OPTIMIZER, build


@dataclass(frozen=True)
class Place:
    """Where a run takes place. Unknown properties are assumed to suit the recipe."""

    engine: Literal["local", "ray", "sites"] = "local"
    """One process; Flower's own simulation runtime; a deployment, with real sites."""
    names_clients: bool = True
    """Whether the coordinator knows which client is behind a node."""
    evaluates: bool = True
    """Whether the coordinator has examples of its own to try an adapter on."""


ANYWHERE = Place()
RAY = Place(engine="ray", names_clients=False)


@dataclass(frozen=True)
class Case:
    """One recipe to be judged."""

    recipe: Recipe
    strategy: Strategy
    place: Place = ANYWHERE

    @property
    def name(self) -> str:
        return self.recipe.strategy.name

    @property
    def traits(self) -> Traits:
        return self.strategy.traits

    @property
    def sends(self) -> frozenset[Factor]:
        """Factors that clients train and send in any round."""
        frozen = {Factor.DENSE} if self.recipe.train.head == "frozen" else set()
        return (self.strategy.trains(1) | self.strategy.trains(2)) - frozen

    @property
    def metric(self) -> Metric:
        """The main metric of its task."""
        return task_named(self.recipe.model.task).compare_by

    @property
    def starts_closed(self) -> bool:
        """Whether the task's head starts at zero, and lets no gradient through before it has trained."""
        return bool(task_named(self.recipe.model.task).zeros)

    @property
    def keeps(self) -> str:
        """The factors that never leave a site, as text."""
        return ", ".join(sorted(self.traits.keeps))

    @property
    def clients(self) -> int | None:
        """Number of clients, if the recipe alone determines it."""
        return None if self.recipe.data.partition == "natural" else self.recipe.data.clients

    @property
    def asked(self) -> int | None:
        """Number of clients that a round asks."""
        return None if self.clients is None else self.recipe.rounds.asked(self.clients)

    @property
    def attackers(self) -> int:
        """Number of attackers."""
        return 0 if self.recipe.attack is None else self.recipe.attack.clients

    @property
    def starts_privately(self) -> bool:
        """Whether the round before the first has a budget."""
        first = self.recipe.adapter.first_step
        return first is not None and first.epsilon is not None

    @property
    def client_level_delta(self) -> float:
        """0 where clients are not hidden."""
        level = self.recipe.privacy.client_level
        return 0.0 if level is None else level.delta

    @property
    def measured(self) -> str:
        """The setting of `robust` that looks at ΔW."""
        robust = self.recipe.robust
        return "robust.norm_bound" if robust.norm_bound is not None else f"robust.rule={robust.rule}"

    @property
    def optimizes(self) -> bool:
        """Whether the mean goes through a server optimiser."""
        return self.recipe.strategy.options.get(SERVER_OPTIMIZER) is not None

    @property
    def alike(self) -> str | None:
        """The setting by which clients have equal weights, or weights other than their examples; None if there is
        none."""
        if self.recipe.robust.enabled:
            return "robust"
        if self.recipe.privacy.client_level is not None:
            return "privacy.client_level"
        if self.recipe.strategy.options.get("weighting") == "uniform":
            return "strategy.weighting=uniform"
        return f"strategy.name={self.name}" if self.traits.own_weights else None

    @property
    def idle_densities(self) -> str:
        """The settings of `wire.densities` for what no client ever sends."""
        idle = sorted(self.recipe.wire.densities.given.keys() - self.sends)
        return " and ".join(f"wire.densities.{factor}" for factor in idle)


def case_of(recipe: Recipe, place: Place = ANYWHERE) -> Case:
    """The recipe with the strategy that it names; SettingsError where there is none of that name, or of its options.

    So it is for `data` with a format or a column that the task does not read, and for every plug-in that it names.
    """
    columns_for(recipe.data, recipe.model.task, source=recipe.data.source)
    if recipe.train.has_own_optimizer:
        maker_of(recipe.train)
    return Case(recipe, build(recipe.strategy.name, recipe.strategy.options), place)

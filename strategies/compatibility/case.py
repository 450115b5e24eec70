"""Input of a rule: a recipe, its strategy, and where the run takes place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlora.config import Recipe
from fedlora.config.model import QUANTISED
from fedlora.data.chosen_columns import columns_for
from fedlora.factor import Factor
from fedlora.plugins.optimizers import maker_of
from fedlora.tasks.base import CountsTokens, Packs
from fedlora.tasks.metric import Metric
from fedlora.tasks.registry import has_tags, preference_loss, task_named, writes
from fedlora.tasks.tags.scheme import untagged
from strategies.base import Strategy, Traits
from strategies.registry import SERVER_OPTIMIZER, build

OWN_SETTINGS = {
    "dpo": ("label_smoothing",),
    "kto": ("desirable_weight", "undesirable_weight", "reference_point"),
}
"""Settings of `model.preference` that one loss alone has."""


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
    def preference_loss(self) -> str | None:
        """The loss of preference training; None where the task is another."""
        return preference_loss(self.recipe.model)

    @property
    def idle_preferences(self) -> str:
        """The settings of `model.preference` that belong to another loss than the task's."""
        given = self.recipe.model.preference.model_dump(exclude_defaults=True)
        others = [name for loss, names in OWN_SETTINGS.items() if loss != self.preference_loss for name in names]
        idle = [name for name in others if name in given] if self.preference_loss else []
        return " and ".join(f"model.preference.{name}" for name in idle)

    @property
    def answers_nothing(self) -> str | None:
        """The setting by which there is no model, or not one, that could write answers; None if there is none."""
        if not writes(self.recipe.model.task):
            return f"model.task={self.recipe.model.task}"
        if self.recipe.mode == "alone":
            return "mode=alone, which has a model for every client"
        return f"strategy.name={self.name}, which has no global model" if self.traits.keeps else None

    @property
    def quantised(self) -> bool:
        """Whether the base is held in so few bits that nothing can be added to it, nor a gradient taken of it."""
        return bool(self.few_bits)

    @property
    def few_bits(self) -> str:
        """The settings by which it is, at some site at least; empty where none is."""
        model = self.recipe.model
        if model.load_dtype in QUANTISED:
            return f"model.load_dtype={model.load_dtype}"
        return ", ".join(f"model.also_held_as={form}" for form in model.also_held_as if form in QUANTISED)

    @property
    def starts_closed(self) -> bool:
        """Whether the task's head starts at zero, and lets no gradient through before it has trained."""
        return bool(task_named(self.recipe.model.task).zeros)

    @property
    def counts_tokens(self) -> bool:
        """Whether the task's examples have learnt tokens."""
        return isinstance(task_named(self.recipe.model.task), CountsTokens)

    @property
    def packs(self) -> bool:
        """Whether several of the task's examples can share a row."""
        return isinstance(task_named(self.recipe.model.task), Packs)

    @property
    def units(self) -> int | None:
        """How many rounds, or steps, `train.schedule_over` has; None where only sites know."""
        rounds, train = self.recipe.rounds.count, self.recipe.train
        if train.schedule_over == "rounds":
            return rounds
        return None if train.steps is None else rounds * train.steps

    @property
    def steady(self) -> bool:
        """Whether learning rates do not fall."""
        return self.recipe.train.schedule == "constant"

    @property
    def forgets(self) -> bool:
        """Whether the local optimiser has no state."""
        return self.recipe.train.optimizer == "sgd" and not self.recipe.train.momentum

    @property
    def goes_on_nowhere(self) -> str | None:
        """The settings by which no round has rows that the next could go on from; None if there are none."""
        if self.recipe.privacy.enabled:
            return "privacy: every step draws its rows by chance"
        epochs = self.recipe.train.local_epochs
        return None if epochs is None else f"train.local_epochs={epochs}: every round goes through all rows"

    @property
    def untagged(self) -> str:
        """What is wrong with data.labels where they have to be tags of words; empty where nothing is."""
        return untagged(self.recipe.data.labels or ()) if has_tags(self.recipe.model.task) else ""

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

"""The table's part on where a run takes place (one process, Flower's runtime, real sites), and on who lies in it."""

from __future__ import annotations

from fedlora.config.clients.attack import FLIPS_LABELS
from fedlora.factor import Factor
from fedlora.tasks.registry import has_classes
from strategies.compatibility.case import RAY, Place
from strategies.compatibility.rule import Rule

SITES = Place(engine="sites")

PLACE = (
    Rule(
        name="a deployment is federated",
        when=lambda c: c.recipe.mode != "federated" and c.place.engine == "sites",
        because="mode={c.recipe.mode!r} is for simulations only; a deployed run is always `federated`.",
        instead="Remove it.",
        example=("mode=pooled",),
        where=SITES,
    ),
    Rule(
        name="answers are to questions",
        when=lambda c: c.recipe.rounds.generate,
        unless=lambda c: c.place.evaluates,
        because="rounds.generate asks questions of the coordinator's own test set, but there is none:",
        instead="set held_out in server.yaml, or remove rounds.generate.",
        example=("rounds.generate={examples: 4}", "model.task=causal-lm"),
        where=Place(engine="sites", evaluates=False),
    ),
    Rule(
        name="real sites do not lie",
        when=lambda c: c.recipe.attack and c.place.engine == "sites",
        because="attack is for `fedlora simulate` only: real sites cannot be told to lie.",
        instead="Remove it.",
        example=("attack.kind=scaled",),
        where=SITES,
    ),
    Rule(
        name="accomplices are in one process",
        when=lambda c: c.recipe.attack and c.place.engine == "ray",
        because="attack works only with the local engine, because attackers share one process.",
        instead="Remove --engine.",
        example=("attack.kind=scaled",),
        where=RAY,
    ),
    Rule(
        name="devices have names",
        when=lambda c: c.recipe.devices,
        unless=lambda c: c.place.names_clients,
        because="devices are given by client name, but this engine does not know its clients' names;",
        instead="use the local engine or a deployment.",
        example=("strategy.name=hetlora", "devices.others.r=4"),
        where=RAY,
    ),
    Rule(
        name="reversed classes need classes",
        when=lambda c: c.recipe.attack and c.recipe.attack.kind in FLIPS_LABELS,
        unless=lambda c: has_classes(c.recipe.model.task),
        because="attack.kind={c.recipe.attack.kind} trains on reversed classes, and model.task={c.recipe.model.task} "
        "has none;",
        instead="use sign-flip or regauge.",
        example=("attack.kind=scaled", "model.task=causal-lm"),
    ),
    Rule(
        name="classes of words are tags",
        when=lambda c: c.untagged,
        because="{c.untagged} The classes of model.task={c.recipe.model.task} are tags;",
        instead="mend data.labels, or remove it: those of the rows are then taken.",
        example=("data.labels=[O, PLACE]", "model.task=token-classification"),
    ),
    Rule(
        name="liars are among others",
        when=lambda c: c.recipe.attack and c.recipe.mode != "federated",
        because="attack.clients={c.attackers} needs more clients than attackers, but "
        "mode={c.recipe.mode} has only one;",
        instead="remove attack.",
        example=("attack.kind=scaled", "mode=pooled"),
    ),
    Rule(
        name="liars are fewer than clients",
        when=lambda c: c.recipe.attack,
        unless=lambda c: c.clients is None or c.attackers < c.clients,
        because="attack.clients={c.attackers} needs more clients than attackers, but data.clients={c.clients};",
        instead="lower it.",
        example=("attack.kind=scaled", "attack.clients=4", "data.partition=iid", "data.clients=4"),
    ),
    Rule(
        name="another gauge needs both factors",
        when=lambda c: c.recipe.attack and c.recipe.attack.kind == "regauge",
        unless=lambda c: {Factor.A, Factor.B} <= c.strategy.trains(1),
        because="attack.kind=regauge rescales A against B, but {c.name} does not train both;",
        instead="choose strategy.name=fedit, or another attack.",
        example=("strategy.name=fedsvd", "attack.kind=regauge"),
    ),
)

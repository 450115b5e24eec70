"""A run's own account of itself for its adapter's card, from its folder (`fedlora.exports.made`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.config import Recipe
from fedlora.data.packaged import PACKAGED
from fedlora.exports.made import Made, Protected, as_range
from fedlora.privacy.spent import privacy_summary
from fedlora.privacy.unconfirmed import SiteSpent
from fedlora.protocol.task import Evaluation
from server.record.checkpoint import Progress
from server.record.lines import read_records
from server.record.records import RoundRecord
from server.record.summary import first_step_spent, last_evaluation, noised_rounds
from strategies.registry import build

ROW = "one row of a site's data"
SITE = "whether a whole site took part"


def made_in(
    recipe: Recipe, progress: Progress, folder: Path, spent: Mapping[str, SiteSpent], *, of_packaged: bool
) -> Made:
    """`of_packaged`: whether the sites' rows are those that the recipe names, as in a simulation."""
    records = list(read_records(folder))
    said = privacy_summary(recipe, spent, rounds=noised_rounds(folder, progress))
    return Made(
        name=recipe.name,
        strategy=recipe.strategy.name,
        rounds=progress.round,
        clients=as_range(max(1, len({client.client for record in records for client in record.clients}))),
        bytes_up=progress.bytes_up,
        bytes_down=progress.bytes_down,
        source=recipe.data.source if of_packaged and recipe.data.source in PACKAGED else None,
        evaluation=kept_apart(recipe, records),
        protected=tuple(protected(said, first_step_spent(recipe, [folder]))),
        not_covered=tuple(said.get("leaks", ())),
    )


def kept_apart(recipe: Recipe, records: list[RoundRecord]) -> Evaluation | None:
    """What the coordinator measured last. Where every site keeps a model of its own, figures are the sites' own."""
    keeps = build(recipe.strategy.name, recipe.strategy.options).traits.keeps
    return None if keeps else last_evaluation(records)


def protected(said: Mapping[str, Any], first_step: Mapping[str, Any]) -> list[Protected]:
    """Each unit's, side by side. With a first step from the clients' gradients, both together."""
    found = []
    if "epsilon_max" in said:
        epsilon = first_step.get("epsilon_max_with_first_step", said["epsilon_max"])
        delta = first_step.get("delta_with_first_step", said["delta"])
        secure = not said["insecure_noise"]
        found.append(
            Protected(unit=ROW, adjacency=said["adjacency"], epsilon=finite(epsilon), delta=delta, is_guarantee=secure)
        )
    if (client := said.get("client_level")) is not None:
        found.append(
            Protected(
                unit=SITE, adjacency=client["adjacency"], epsilon=finite(client["epsilon"]), delta=client["delta"],
                trusts=client["trusts"],
            )
        )  # fmt: skip
    return found


def finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None

"""The stages are a list: what a recipe asks for, in the order in which an update meets it."""

from __future__ import annotations

import pytest
import torch

from fedlora.config import Recipe
from fedlora.settings import parse
from fedlora.updates import Factor, Update
from server.stages import listing
from server.stages.base import Round, Stage, through
from server.stages.client_level import ClientLevel
from server.stages.listing import stages_of
from server.stages.robust.stage import Robust
from tests.server.stages.robust.examples import BOTH, StoppedError, honest

CLIENT_LEVEL = {"client_level": {"clip": 1.0, "noise_multiplier": 1.0, "clients": 3}}


def recipe(**sections: object) -> Recipe:
    data = {"source": "table.csv", "text": "text", "label": "label"}
    return parse(Recipe, {"name": "r", "data": data, "strategy": {"name": "ffa"}, **sections})


CASES: list[tuple[dict[str, object], list[type], bool]] = [
    ({}, [], True),
    ({"robust": {"norm_bound": 1.0}}, [Robust], True),
    ({"robust": {"rule": "median", "attackers": 1}}, [Robust], False),
    ({"privacy": CLIENT_LEVEL}, [ClientLevel], False),
]
"""Sections of a recipe, the stages that they ask for, and whether what is served can be compared with the mean."""


def test_every_stage_of_the_listing_is_asked_for_here():
    known = {kind for kind in vars(listing).values() if isinstance(kind, type) and hasattr(kind, "arrive")} - {Stage}
    tried = {kind for _, kinds, _ in CASES for kind in kinds}
    assert known == tried, "a row in CASES: the settings that ask for the stage"


@pytest.mark.parametrize(("sections", "kinds", "mean"), CASES)
def test_a_recipe_s_stages_and_whether_an_error_against_the_mean_means_anything(sections, kinds, mean):
    stages = stages_of(recipe(**sections))
    assert [type(stage) for stage in stages] == kinds
    assert all(stage.serves_the_mean for stage in stages) is mean


def test_noise_that_is_asked_for_is_never_left_out():
    """The recipe's own check comes first; a copy of one with other settings has not met it."""
    asked = recipe(privacy=CLIENT_LEVEL)
    level = asked.privacy.client_level.model_copy(update={"clients": None})
    privacy = asked.privacy.model_copy(update={"client_level": level})
    with pytest.raises(ValueError, match="needs the number of clients"):
        stages_of(asked.model_copy(update={"privacy": privacy}))


class Doubles:
    """A stage of a stranger's."""

    serves_the_mean = True

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen = name, seen

    def arrive(self, updates, this):
        for update in updates:
            self._seen.append(f"{self._name} {update.client}")
            yield update


def test_an_update_meets_the_stages_in_their_order_as_it_arrives():
    sent, updates = honest(2)
    this = Round(1, sent, tuple(BOTH), lambda *a, **k: None, StoppedError)
    seen: list[str] = []
    going_on = through([Doubles("first", seen), Doubles("second", seen)], iter(updates), this)
    assert next(going_on) is updates[0]
    assert seen == ["first c0", "second c0"]
    assert list(going_on) == updates[1:]
    assert list(through([], iter(updates), this)) == updates


def test_client_level_hands_on_one_update_whatever_came():
    sent, updates = honest(3)
    this = Round(1, sent, (Factor.B,), lambda *a, **k: None, StoppedError)
    (stage,) = stages_of(recipe(privacy=CLIENT_LEVEL))
    (mean,) = stage.arrive(iter(updates), this)
    assert isinstance(mean, Update)
    assert mean.weight == 4.0
    for name, tensor in mean.adapter.tensors((Factor.A,)).items():
        assert torch.equal(tensor, sent.tensors((Factor.A,))[name]), "what is not trained stays"

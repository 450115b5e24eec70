"""Every pair of settings that the table speaks of: refused by it, or begun by the coordinator without another word."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fedlora.config import Recipe, override
from fedlora.models.loaded_model import loaded_model
from fedlora.settings import SettingsError, parse
from server.coordinate import Coordination, coordinate
from strategies.compatibility import RULES, case_of, refusals
from strategies.registry import STRATEGIES
from tests.chats import save_chat_model
from tests.federations import save_messages, save_tiny_model, tiny_recipe
from tests.pictures import save_vit

STARTS = {
    "plain": (),
    "core": ("strategy.name=fedsb", "adapter.kind=lora_xs"),
    "unequal": ("strategy.name=hetlora", "devices.others.r=1"),
    "private": ("strategy.name=fedit", "privacy.epsilon=3", "privacy.report_metrics=true"),
    "from clients": (
        "strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=client-gradients", "privacy.epsilon=3",
        "adapter.first_step={epsilon: 2.0, batch_size: 8}",
    ),
}  # fmt: skip
OTHERS = (
    "train.head=frozen",
    "wire.codec=auto",
    "wire.densities.head=0.5",
    "rounds.max_weight=3",
    "quotas.bytes_per_round=9",
)
SETTINGS = sorted({
    *(setting for rule in RULES for setting in rule.example if not setting.startswith("strategy.name=")),
    *(f"strategy.name={name}" for name in STRATEGIES),
    *OTHERS,
})  # fmt: skip


class ReachedError(Exception):
    """The coordinator has asked who is there: it has nothing more to object."""


class Nobody:
    """A grid that is only asked once."""

    def get_node_ids(self) -> list[int]:
        raise ReachedError


def pairs() -> Iterator[tuple[str, str]]:
    for one, other in itertools.combinations(SETTINGS, 2):
        if one.partition("=")[0] != other.partition("=")[0]:
            yield one, other


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return tiny_recipe(model, source).model_dump(mode="json", exclude_unset=True)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A model for each task that is not of the texts."""
    folder = tmp_path_factory.mktemp("others")
    writes = dict.fromkeys(("causal-lm", "preference", "unpaired-preference"), save_chat_model(folder / "chats"))
    return {
        **writes,
        "image-classification": save_vit(folder / "vit"),
        "token-classification": save_tiny_model(folder / "tags"),
    }


@pytest.mark.parametrize("start", STARTS)
def test_every_pair_of_settings_is_refused_by_the_table_or_begun(recipe, others, tmp_path, start):
    begun = refused = 0
    for number, pair in enumerate(pairs()):
        try:
            asked = parse(Recipe, override(recipe, (*STARTS[start], *pair)))
        except SettingsError:  # a section that does not fit itself
            continue
        if said := list(refusals(case_of(asked), RULES)):
            assert all(line.endswith((".", ")")) for line in said), said
            refused += 1
            continue
        if asked.model.task in others:
            own = asked.model.model_copy(update={"id": others[asked.model.task]})
            asked = asked.model_copy(update={"model": own})
        home = loaded_model(asked.model, asked.adapter, ("bad", "good"))
        needs = Coordination(
            home, tmp_path / str(number), ("bad", "good"), evaluate=lambda state: None, site_of=lambda node: "blue"
        )
        with pytest.raises(ReachedError):
            coordinate(Nobody(), asked, needs, resume=False)
        begun += 1
    assert min(begun, refused) > 100, "both were tried"

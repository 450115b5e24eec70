"""docs/entities.md shows rows and settings that are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from client.settings import SiteData
from fedlora.config import DataSettings, Recipe
from fedlora.data.chosen_columns import columns_for
from fedlora.data.packaged import PACKAGED
from fedlora.data.row import labels_in
from fedlora.data.rows import read_rows
from fedlora.settings import parse
from server.settings import HeldOut
from simulations.run import prepare, simulate
from strategies.compatibility import case_of, require_compatible
from tests.federations import save_tiny_model
from tests.taggings import save_tagged

PAGE = (Path(__file__).parents[3] / "docs/entities.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_two_rows_that_are_shown_are_the_same_and_their_tags_are_the_site_s(tmp_path):
    (tmp_path / "rows.jsonl").write_text(blocks("json")[0])
    (tmp_path / "rows.conll").write_text(blocks("conll")[0])
    (one,) = read_rows(
        str(tmp_path / "rows.jsonl"), columns_for(DataSettings(), "token-classification", client="client")
    )
    (other,) = read_rows(str(tmp_path / "rows.conll"), columns_for(DataSettings(), "token-classification"))
    assert one.words_and_tags() == other.words_and_tags()
    assert one.client == "north"
    _, site, _ = blocks("yaml")
    assert labels_in([one]) == tuple(yaml.safe_load(site)["data"]["labels"])


def test_the_row_of_stretches_that_is_shown_is_of_the_words_that_it_names(tmp_path):
    (tmp_path / "rows.jsonl").write_text(blocks("json")[1])
    columns = columns_for(DataSettings(format="text-spans"), "token-classification")
    (row,) = read_rows(str(tmp_path / "rows.jsonl"), columns)
    entities = [pair for pair in zip(*row.words_and_tags(), strict=True) if pair[1] != "O"]
    assert entities == [("1532", "B-FLIGHT"), ("San", "B-PLACE"), ("Diego", "I-PLACE")]


def test_settings_of_site_and_coordinator_are_theirs():
    _, site, server = map(yaml.safe_load, blocks("yaml"))
    assert SiteData(**site["data"]).task == HeldOut(**server["held_out"]).task == "token-classification"


def test_the_recipe_that_is_shown_runs_on_a_folder_of_such_files(tmp_path):
    """With a model and steps that fit in a test."""
    shown = yaml.safe_load(blocks("yaml")[0])
    require_compatible(case_of(parse(Recipe, shown)))
    shown["data"]["source"] = save_tagged(tmp_path / "sites")
    shown["model"] |= {"id": save_tiny_model(tmp_path / "model"), "max_tokens": 16}
    shown |= {"adapter": {"r": 2}, "rounds": {"count": 1}}
    shown["train"]["steps"] = 1
    summary = simulate(prepare(parse(Recipe, shown)), tmp_path / "run", watch=lambda event: None)
    assert (summary["rounds"], summary["metric"], summary["clients"]) == (1, "f1", 4)


def test_as_many_messages_have_an_entity_as_the_page_says():
    assert f"the {sum(1 for _ in PACKAGED['entities'].rows()):,} public messages" in PAGE

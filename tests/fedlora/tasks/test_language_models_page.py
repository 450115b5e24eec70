"""docs/language_models.md shows rows and settings that are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from client.settings import SiteData
from fedlora.config import DataSettings
from fedlora.data.chosen_columns import columns_for
from fedlora.data.rows import read_rows
from fedlora.tasks.answering.choices import question_of
from fedlora.tasks.inputs.learned_text import learned_text
from server.settings import HeldOut
from tests.chats import tokenizer_with

PAGE = (Path(__file__).parents[3] / "docs/language_models.md").read_text(encoding="utf-8")
LEARNT = {
    "messages": "Up to 10 m².<e>",
    "prompt-completion": " Up to 10 m².<e>",
    "text": "A shed of up to 10 m² needs no permit.<e>",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("number", "form"), enumerate(LEARNT), ids=LEARNT)
def test_of_every_row_that_is_shown_is_learnt_what_the_page_says(tmp_path, number, form):
    (tmp_path / "rows.jsonl").write_text(blocks("json")[number])
    columns = columns_for(DataSettings(format=form), "causal-lm", client="team")
    (row,) = read_rows(str(tmp_path / "rows.jsonl"), columns)
    found = learned_text(row, tokenizer_with(), longest=1000)
    assert "".join(found.text[first:last] for first, last in found.learned) == LEARNT[form]
    assert row.client == "north"


def test_the_question_that_is_shown_has_the_choices_and_the_answer_that_the_page_says(tmp_path):
    (tmp_path / "rows.jsonl").write_text(blocks("json")[len(LEARNT)])
    columns = columns_for(DataSettings(), "multiple-choice", client="team")
    (row,) = read_rows(str(tmp_path / "rows.jsonl"), columns)
    question = question_of(row, tokenizer_with())
    assert (question.prompt, question.choices[question.answer]) == ("Q: May I build a shed? A:", " Up to 10 m².")
    assert len(question.choices) == 3


def test_settings_of_site_and_coordinator_are_theirs():
    site, server = (yaml.safe_load(block) for block in blocks("yaml")[-2:])
    assert SiteData(**site["data"]).task == HeldOut(**server["held_out"]).task == "causal-lm"

"""Entities as stretches of characters, and tags as numbers: the same rows as words with the names of their tags."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.settings import SiteData
from fedlora.config import DataSettings
from fedlora.data.chosen_columns import columns_for
from fedlora.data.entities.spans import words_with_tags
from fedlora.data.rows import read_rows, read_source
from fedlora.settings import SettingsError
from fedlora.tasks.registry import task_named
from server.settings import HeldOut
from tests.chats import tokenizer_with

NAMES = ("O", "B-TOWN", "I-TOWN")


def spans(*found: tuple[int, int, str]) -> str:
    return json.dumps([{"start": start, "end": end, "label": label} for start, end, label in found])


def test_a_stretch_is_of_whole_words_wherever_it_ends():
    words, tags = words_with_tags("from New York-based (NYC)", spans((5, 13, "TOWN"), (21, 24, "CODE")))
    assert list(zip(words, tags, strict=True)) == [
        ("from", "O"), ("New", "B-TOWN"), ("York", "I-TOWN"), ("-", "O"), ("based", "O"), ("(", "O"),
        ("NYC", "B-CODE"), (")", "O"),
    ]  # fmt: skip
    assert words_with_tags("Yorkshire", spans((0, 4, "TOWN"))) == (("York", "shire"), ("B-TOWN", "O"))
    assert words_with_tags("aa", spans((0, 1, "X"), (1, 2, "X"))) == (("a", "a"), ("B-X", "B-X"))
    assert words_with_tags("no town", "[]") == (("no", "town"), ("O", "O"))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("{}", "no list of stretches"),
        ("[", "no list of stretches"),
        ('[["a"]]', "an object of start, end and label"),
        (spans((0, 99, "secret")), "does not lie within the text"),
        (spans((-1, 2, "secret")), "does not lie within the text"),
        (spans((2, 2, "secret")), "does not lie within the text"),
        (spans((0, 4, "secret"), (3, 6, "secret")), "lie over each other"),
        (spans((4, 5, "secret")), "holds no word"),
        (json.dumps([{"start": True, "end": 2, "label": "secret"}]), "an object of start, end and label"),
    ],
)
def test_what_is_no_stretch_of_the_text_is_refused_without_its_words(cell, said):
    with pytest.raises(ValueError, match=said) as refused:
        words_with_tags("some words", cell)
    assert "secret" not in str(refused.value)


@given(st.text(alphabet="ab .-", min_size=1, max_size=20), st.lists(st.integers(0, 20), unique=True, max_size=6))
def test_every_stretch_comes_back_from_its_words(text, edges):
    at = sorted(edge for edge in edges if edge <= len(text))
    own = [(start, end, "X") for start, end in zip(at[::2], at[1::2], strict=False) if text[start:end].strip()]
    words, tags = words_with_tags(text, spans(*own))
    assert "".join(words) == "".join(text.split())
    entities = "".join(" " * (tag[0] == "B") + word for word, tag in zip(words, tags, strict=True) if tag != "O")
    assert entities.split() == ["".join(text[start:end].split()) for start, end, _ in own]


def test_a_file_of_stretches_is_read_and_a_text_without_one_stays(tmp_path):
    rows = [
        {"text": "to New York", "spans": [{"start": 3, "end": 11, "label": "TOWN"}]},
        {"text": "to nowhere", "spans": []},
        {"text": "broken", "spans": [{"start": 3, "end": 99, "label": "TOWN"}]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    columns = columns_for(DataSettings(format="text-spans"), "token-classification")
    found = read_rows(str(file), columns)
    assert [row.classes for row in found] == [("O", "B-TOWN", "I-TOWN"), ("O", "O"), ()]
    assert found[0].words_and_tags()[0] == ("to", "New", "York")
    with pytest.raises(SettingsError, match="example 3 cannot be used: a stretch does not lie within the text"):
        encoded(found)
    assert (encoded(found, each=True)[2]["labels"] == -100).all()


def encoded(rows, *, each: bool = False):
    return task_named("token-classification").encode(rows, tokenizer_with(), NAMES, longest=30, padding=0, each=each)


OF_FILES = {"task": "token-classification", "tag_names": NAMES}


@pytest.mark.parametrize(
    "settings",
    [DataSettings(tag_names=NAMES), SiteData(train="x", **OF_FILES), HeldOut(file="x", **OF_FILES)],
    ids=["recipe", "site", "test set"],
)
def test_numbers_of_tags_have_the_names_that_are_given_to_them(tmp_path, settings):
    file = tmp_path / "rows.jsonl"
    rows = [{"tokens": ["to", "York"], "tags": [0, 1]}, {"tokens": ["far"], "tags": [7]}, {"tokens": [], "tags": []}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    read = read_source(str(file), columns_for(settings, "token-classification"))
    assert [row.classes for row in read.rows] == [("O", "B-TOWN"), ("7",)]
    assert read.counts.unusable == (("nothing in column 'tokens'", 1),)
    with pytest.raises(SettingsError, match=r"'7' is no tag.* Say what the tags' numbers mean: data.tag_names"):
        task_named("token-classification").encode(read.rows, None, ("O", "7"), longest=9, padding=0, each=False)

"""Words with their tags, from every kind of file that has lists; and the packaged ones."""

from __future__ import annotations

import json

import pytest

from fedlora.config import DataSettings
from fedlora.data.choose_columns import choose
from fedlora.data.chosen_columns import columns_for
from fedlora.data.classes import require_classes
from fedlora.data.columns import columns_in
from fedlora.data.form import TOKENS_AND_TAGS, Columns
from fedlora.data.packaged import AIRLINES, PACKAGED
from fedlora.data.row import Row, labels_in
from fedlora.data.rows import read_rows, read_source, read_whole
from fedlora.settings import SettingsError
from fedlora.tasks.tags.scheme import require_tags
from tests.taggings import conll, save_tagged, sentences

COLUMNS = Columns(TOKENS_AND_TAGS)
ROWS = [(["fly", "to", "new", "york"], ["O", "O", "B-TOWN", "I-TOWN"]), (["late"], ["O"])]


def save_jsonl(folder):
    lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def save_parquet(folder):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(("tokens", "tags"))}
    parquet.write_table(pa.table(columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def save_csv(folder):
    lines = ["tokens;tags", *(f"{json.dumps(w)};{json.dumps(t)}".replace('"', "'") for w, t in ROWS)]
    (folder / "rows.csv").write_text("\n".join(lines).replace("'", '""').replace("[", '"[').replace("]", ']"'))
    return folder / "rows.csv"


def save_conll(folder):
    (folder / "rows.conll").write_text(conll(ROWS))
    return folder / "rows.conll"


@pytest.mark.parametrize("save", [save_jsonl, save_parquet, save_csv, save_conll])
def test_the_same_rows_come_from_every_kind_of_file(tmp_path, save):
    rows = read_rows(str(save(tmp_path)), COLUMNS)
    assert [tuple(map(list, row.words_and_tags())) for row in rows] == ROWS
    assert labels_in(rows) == ("B-TOWN", "I-TOWN", "O")


def test_a_file_of_the_shared_tasks_has_further_fields_beginnings_of_documents_and_windows_ends(tmp_path):
    text = (
        "-DOCSTART- -X- O O\r\n\r\n# text = EU rejects\r\nEU NNP B-NP B-ORG\r\nrejects\tVBZ\tO\r\n\r\n\r\nlate RB O\r\n"
    )
    (tmp_path / "eng.bio").write_bytes(text.encode())
    rows = read_rows(str(tmp_path / "eng.bio"), COLUMNS)
    assert [row.words_and_tags() for row in rows] == [(("EU", "rejects"), ("B-ORG", "O")), (("late",), ("O",))]


def test_a_line_without_a_tag_costs_its_sentence_alone_and_is_said_with_its_line(tmp_path):
    (tmp_path / "rows.conll").write_text("late O\n\nfly O\nhome\nnow O\n\nlost O\n")
    found = read_source(str(tmp_path / "rows.conll"), COLUMNS)
    assert [row.words_and_tags()[0] for row in found.rows] == [("late",), ("lost",)]
    with pytest.raises(SettingsError, match=r"rows\.conll:4: no tag behind the word; write the word, a blank, and its"):
        read_whole(str(tmp_path / "rows.conll"), COLUMNS)


def test_in_a_folder_of_such_files_each_is_a_client(tmp_path):
    source = save_tagged(tmp_path / "sites")
    rows = read_rows(source, columns_for(DataSettings(), "token-classification", client="client", client_by_file=True))
    assert {row.client for row in rows} == {"blue", "green", "red", "white"}
    assert sum(row.client == "red" for row in rows) == len(sentences("red"))


def test_other_names_of_the_columns_are_given_and_one_that_is_not_there_is_said(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"words": ["late"], "ner_tags": ["O"]}))
    chosen = DataSettings(columns={"tokens": "words", "tags": "ner_tags"})
    (row,) = read_rows(str(tmp_path / "rows.jsonl"), columns_for(chosen, "token-classification"))
    assert row.words_and_tags() == (("late",), ("O",))
    with pytest.raises(SettingsError, match=r"data\.columns\.tokens='words': .* has no such column; .*tokens, tags"):
        read_rows(str(save_conll(tmp_path)), columns_for(chosen, "token-classification"))


def test_a_row_with_a_tag_that_is_not_declared_is_left_out_by_itself(tmp_path):
    found = read_source(str(save_conll(tmp_path)), COLUMNS, labels=("O", "B-PLACE"))
    assert [row.words_and_tags()[0] for row in found.rows] == [("late",)]
    assert "1 with a class that is not declared" in str(found.counts)


def test_the_same_words_with_other_tags_are_in_conflict(tmp_path):
    (tmp_path / "rows.conll").write_text(conll([*ROWS, (["late"], ["B-TOWN"])]))
    found = read_source(str(tmp_path / "rows.conll"), COLUMNS)
    assert (len(found.rows), found.counts.conflicting) == (1, 2)


def test_numbers_for_tags_are_read_and_then_refused_with_the_way_out(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": ["a", "b"], "tags": [0, 3]}))
    labels = labels_in(read_rows(str(tmp_path / "rows.jsonl"), COLUMNS))
    assert labels == ("0", "3")
    with pytest.raises(SettingsError, match=r"Say what the tags. numbers mean: data\.tag_names"):
        require_tags(labels)


def test_too_many_tags_are_taken_for_a_mistake_by_the_column_s_own_name():
    columns = Columns(TOKENS_AND_TAGS, (("tags", "ner"),))
    with pytest.raises(SettingsError, match=r"data\.columns\.tags='ner': it has 201 different values in it"):
        require_classes([f"B-{number}" for number in range(201)], columns, "it")


@pytest.mark.parametrize("save", [save_jsonl, save_conll])
def test_where_columns_are_guessed_words_with_tags_are_named_with_what_to_write(tmp_path, save):
    source = str(save(tmp_path))
    with pytest.raises(
        SettingsError, match=r"has words with tags .* by hand: model: {task: token-classification}, and"
    ):
        choose(columns_in(source), source)


def test_the_packaged_entities_are_those_of_six_airlines_and_every_row_has_one():
    rows = list(PACKAGED["entities"].rows())
    assert len(rows) == 5673
    assert {row.client for row in rows} == set(AIRLINES)
    assert all(set(row.classes) - {"O"} for row in rows)
    kinds = ("ACCOUNT", "DURATION", "FLIGHT", "MONEY", "PLACE", "TIME")
    assert labels_in(rows) == (
        *(f"B-{kind}" for kind in kinds),
        *(f"I-{kind}" for kind in kinds if kind != "FLIGHT"),
        "O",
    )
    assert not any(mark in word for row in rows[:500] for word in row.words_and_tags()[0] for mark in "@#$:")
    assert all(word == word.lower() for row in rows[:500] for word in row.words_and_tags()[0])


def test_a_cell_that_is_no_list_names_no_class():
    assert Row(TOKENS_AND_TAGS, ("late", "O")).classes == ()

"""Formats other than a text with its class: nested cells, names of columns, packaged questions, and one row's reach."""

import json
import random
from collections import Counter

import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlora.config import DataSettings
from fedlora.data.chosen_columns import columns_for
from fedlora.data.form import (
    MESSAGES,
    PREFERENCE,
    PREFERENCE_MESSAGES,
    PROMPT_AND_COMPLETION,
    TEXT,
    TEXT_AND_LABEL,
    Columns,
)
from fedlora.data.membership import key_of
from fedlora.data.packaged import PACKAGED, answered_questions
from fedlora.data.row import Row, text_row
from fedlora.data.rows import read_rows, read_source
from fedlora.settings import SettingsError, parse
from simulations.data.partition import assign
from tests.chats import turns

CHATS = [turns("why?", "so."), turns("när?", "då <b>")]


def settings(**given: object) -> DataSettings:
    return parse(DataSettings, {"source": "x.jsonl", **given})


def test_messages_are_the_same_rows_in_json_lines_parquet_and_csv(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": chat, "other": 1}) for chat in CHATS))
    parquet.write_table(pa.table({"messages": CHATS}), tmp_path / "a.parquet")
    written = [json.dumps(chat, sort_keys=True, ensure_ascii=False) for chat in CHATS]
    quoted = ['"' + chat.replace('"', '""') + '"' for chat in written]
    (tmp_path / "a.csv").write_text("\n".join(["messages", *quoted]))
    found = [read_rows(str(tmp_path / f"a.{kind}"), Columns(MESSAGES)) for kind in ("jsonl", "parquet", "csv")]
    assert found[0] == found[1] == found[2]
    assert [json.loads(row["messages"]) for row in found[0]] == CHATS
    assert [row.label for row in found[0]] == [None, None]


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_list_or_an_object_is_still_no_text(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": value, "label": "x"}) + '\n{"text": "b", "label": "y"}\n')
    assert read_rows(str(tmp_path / "a.jsonl"), Columns()) == [text_row("b", "y")]


def test_an_empty_conversation_and_one_that_is_no_json_are_counted(tmp_path):
    lines = [json.dumps({"messages": []}), json.dumps({"messages": 0.5}), json.dumps({"messages": CHATS[0]})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    counts = read_source(str(tmp_path / "a.jsonl"), Columns(MESSAGES)).counts
    assert (counts.read, counts.kept, sum(count for _, count in counts.unusable)) == (3, 1, 2)


def test_columns_have_the_names_that_the_settings_give_them(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,who\nwhy?,so,p\n")
    asked = settings(columns={"prompt": "question", "completion": "answer"})
    columns = columns_for(asked, "causal-lm", client="who")
    assert read_rows(str(tmp_path / "a.csv"), columns) == [Row(PROMPT_AND_COMPLETION, ("why?", "so"), "p")]
    assert columns_for(settings(format="text", text="body"), "causal-lm") == Columns(TEXT, (("text", "body"),))
    assert columns_for(settings(), "sequence-classification") == Columns(TEXT_AND_LABEL)
    assert columns_for(settings(), "causal-lm", source="faq") == Columns(MESSAGES)


@pytest.mark.parametrize(
    ("given", "task", "said"),
    [
        ({"format": "message"}, "causal-lm", r"data\.format=message: model\.task=causal-lm .* did you mean 'messages'"),
        ({"format": "messages"}, "sequence-classification", r"has no such format; It has text-label|It has text-label"),
        ({"columns": {"promt": "q"}}, "causal-lm", r"data\.columns\.promt: .* did you mean 'prompt'"),
    ],
)
def test_a_format_or_column_that_the_task_does_not_read_is_refused_with_the_nearest(given, task, said):
    with pytest.raises(SettingsError, match=said):
        columns_for(settings(**given), task)


def test_a_file_without_the_columns_names_the_setting_that_renames_them(tmp_path):
    (tmp_path / "a.csv").write_text("question,completion\nwhy?,so\n")
    with pytest.raises(SettingsError, match=r"data\.columns\.prompt='prompt': .* no such column; it has question"):
        read_rows(str(tmp_path / "a.csv"), Columns(PROMPT_AND_COMPLETION))


def test_a_packaged_source_of_another_form_is_refused():
    with pytest.raises(SettingsError, match=r"'faq' has rows of the format messages .* reads text-label"):
        read_rows("faq", Columns())


def test_the_packaged_questions_belong_to_six_clients_of_whole_categories():
    rows = list(PACKAGED["faq"].rows())
    sizes = Counter(row.client for row in rows)
    assert sorted(sizes) == [f"group-{number}" for number in range(1, 7)]
    assert max(sizes.values()) - min(sizes.values()) <= 10
    assert len(read_rows("faq", Columns(MESSAGES, client="client"))) == len(rows) == 503


def test_the_packaged_preferences_are_those_questions_with_an_answer_of_another_category_of_the_same_client():
    rows, again = (list(PACKAGED["faq-preference"].rows()) for _ in range(2))
    assert rows == again
    answered = {client_and_turns(row) for row in PACKAGED["faq"].rows()}
    assert {(row.client, *said_in(row, "prompt", "chosen")) for row in rows} == answered
    answers = {(client, answer) for client, _, answer in answered}
    category = {record["a"]: record["category"] for _, record in answered_questions()}
    for row in rows:
        chosen, rejected = said_in(row, "chosen", "rejected")
        assert (row.client, rejected) in answers
        assert category[chosen] != category[rejected]
    most = Counter(row["rejected"] for row in rows).most_common(1)
    assert most[0][1] < 10
    assert len(read_rows("faq-preference", Columns(PREFERENCE_MESSAGES, client="client"))) == len(rows) == 503
    assert columns_for(settings(), "preference", source="faq-preference") == Columns(PREFERENCE_MESSAGES)


def client_and_turns(row: Row) -> tuple[str, ...]:
    return (row.client, *(turn["content"] for turn in json.loads(row["messages"])))


def said_in(row: Row, *columns: str) -> tuple[str, ...]:
    return tuple(json.loads(row[column])[0]["content"] for column in columns)


def test_pairs_are_the_same_rows_as_texts_and_as_conversations_in_json_lines_and_csv(tmp_path):
    cells = {"prompt": "why?", "chosen": "so", "rejected": "no"}
    (tmp_path / "a.jsonl").write_text(json.dumps(cells))
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nwhy?,so,no\n")
    assert [read_rows(str(tmp_path / f"a.{kind}"), Columns(PREFERENCE)) for kind in ("jsonl", "csv")] == [
        [Row(PREFERENCE, ("why?", "so", "no"))]
    ] * 2
    said = {name: [{"role": "user" if name == "prompt" else "assistant", "content": cells[name]}] for name in cells}
    (tmp_path / "b.jsonl").write_text(json.dumps(said))
    (row,) = read_rows(str(tmp_path / "b.jsonl"), Columns(PREFERENCE_MESSAGES))
    assert {name: json.loads(row[name]) for name in cells} == said


def test_one_row_moves_at_most_one_example_where_a_prompt_has_several_answers():
    draw, key = random.Random(0), key_of(0)
    asked = settings(partition="iid", clients=3, held_out=0.2, test_fraction=0.2)
    for _ in range(20):
        cells = {(draw.choice("abcdefghij"), draw.choice("xyzuvw")) for _ in range(80)}
        rows = [Row(PROMPT_AND_COMPLETION, pair) for pair in sorted(cells)]
        dropped = draw.randrange(len(rows))
        before, after = trained(rows, asked), trained(rows[:dropped] + rows[dropped + 1 :], asked)
        assert all(len(before[name] ^ after[name]) <= 1 for name in before), key


def trained(rows: list[Row], asked: DataSettings) -> dict[str, set[Row]]:
    _, clients = assign(rows, asked, seed=0)
    return {name: {rows[index] for index in train} for name, (train, _) in clients.items()}

"""`fedlora init`: what it takes for text, class and client, and that what it writes runs as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.config import load
from fedlora.data.choose_columns import choose
from fedlora.data.columns import columns_in
from fedlora.settings import SettingsError
from simulations.run import prepare

LINES = ("my bag was lost by the crew {}", "the crew was great on flight {}", "seat {} was late and rude")
MOODS = ("bad", "good", "rude")
NAMES = ("id", "body", "mood", "hospital", "when", "note", "same")


def rows(count: int = 240) -> list[tuple[str, ...]]:
    return [
        (f"a{number:05}", LINES[number % 3].format(number), MOODS[number % 3], ("north", "south")[number % 2],
         f"2026-01-01 10:{number % 60:02}", "" if number % 5 else f"see {number}", "x")
        for number in range(count)
    ]  # fmt: skip


def table(folder: Path, suffix: str = ".csv", names=NAMES, found=None) -> Path:
    """The rows as a file of that kind, or with no suffix as a folder of two files."""
    found, path = rows() if found is None else found, folder / f"mail{suffix}"
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows([names, *found])
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, zip(*found, strict=True), strict=True))), path)
    elif suffix:
        objects = [json.dumps(dict(zip(names, row, strict=True))) for row in found]
        path.write_text(f"[{','.join(objects)}]" if suffix == ".json" else "\n".join(objects))
    else:
        path.mkdir()
        for name in ("east", "west"):
            table(path, ".csv", names, found[:100] if name == "east" else found[100:])
            (path / "mail.csv").rename(path / f"{name}.csv")
    return path


@pytest.fixture
def init(tiny_model, tmp_path, monkeypatch):
    """`init(file, ...)`: what is said; the recipe is recipe.yaml here."""
    monkeypatch.chdir(tmp_path)

    def typed(source: object, *words: str) -> str:
        result = CliRunner().invoke(app, ["init", str(source), "--model", tiny_model, *words], env={"COLUMNS": "80"})
        if result.exception is not None:
            raise result.exception
        return result.output

    return typed


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet", ""])
def test_text_class_and_client_are_found_in_every_kind_of_file(init, tmp_path, suffix):
    said = init(table(tmp_path, suffix))
    recipe = load("recipe.yaml")
    assert (recipe.data.text, recipe.data.label, recipe.data.client_column) == ("body", "mood", "hospital")
    assert (recipe.data.partition, recipe.model.max_tokens, recipe.name) == ("natural", 32, "mail")
    assert "text      body: the longest and most varied, 7 words on average" in said
    assert "label     mood: by its name, 3 classes" in said
    assert "client    column 'hospital': by its name, 2 values with 120 rows or more each" in said
    assert "fedlora simulate recipe.yaml" in said
    assert max(map(len, said.partition("text   ")[0].splitlines())) <= 80


def test_the_recipe_runs_as_it_is(init, tmp_path):
    init(table(tmp_path))
    words = ["simulate", "recipe.yaml", "--set", "rounds.count=1", "--quiet", "--json"]
    summary = json.loads(CliRunner().invoke(app, words, env={"FEDLORA_STORE": "none"}).output)
    assert (summary["name"], summary["clients"], summary["rounds"]) == ("mail", 2, 1)


def test_the_comments_hold_the_counts_that_a_run_says(init, tmp_path):
    init(table(tmp_path))
    heard: list[str] = []
    prepare(load("recipe.yaml"), say=heard.append)
    written = " ".join(Path("recipe.yaml").read_text().replace("#", " ").split())
    for what in ("data", "classes", "clients", "test set", "split", "texts"):
        line = next(line for line in heard[0].splitlines() if line.startswith(f"{what} "))
        assert (
            line.removeprefix(what).strip().removeprefix("mail.csv: ").rpartition(f"{tmp_path}/mail.csv: ")[2]
            in written
        )


def test_columns_that_one_names_are_taken(init, tmp_path):
    init(table(tmp_path), "--text", "note", "--label", "hospital", "--client", "mood")
    data = load("recipe.yaml").data
    assert (data.text, data.label, data.client_column) == ("note", "hospital", "mood")


def test_without_a_column_of_clients_rows_are_dealt_and_it_is_said(init, tmp_path):
    said = init(table(tmp_path, names=("id", "body", "mood", "shift", "when", "note", "same")))
    data = load("recipe.yaml").data
    assert (data.partition, data.clients) == ("iid", 2)
    assert "no column is named like an organisation (if 'shift' says whose a row is, name it with --client)" in said
    assert "rows are dealt to 2 clients at random" in said


def test_of_a_folder_without_such_a_column_each_file_is_a_client(init, tmp_path):
    said = init(table(tmp_path, "", names=("id", "body", "mood", "shift", "when", "note", "same")))
    assert "each file is a client" in said
    assert set(prepare(load("recipe.yaml")).data.clients) == {"east", "west"}


def test_a_client_with_next_to_no_rows_is_no_guess(init, tmp_path):
    found = [*rows(), ("b", "one row of an island", "bad", "island", "", "", "x")]
    assert "'hospital' has a value with 1 rows, too few" in init(table(tmp_path, found=found))
    assert load("recipe.yaml").data.partition == "iid"


def test_names_that_mean_something_to_yaml_or_a_terminal_are_written_safely(init, tmp_path):
    names = ("id", "no: #1 body", "mood", "hospital", "when", "note", "same")
    found = [(*row[:2], f"{row[2]}\n\x1b[31m: yes", *row[3:]) for row in rows()]
    said = init(table(tmp_path, names=names, found=found))
    assert load("recipe.yaml").data.text == "no: #1 body"
    assert "\x1b" not in said + Path("recipe.yaml").read_text()


def test_longer_texts_ask_for_more_tokens(init, tmp_path):
    """Within what the model can read: the tiny one has 32 positions, the demo's more."""
    found = [(*row[:1], f"{row[1]} " + "bag " * 40, *row[2:]) for row in rows()]
    assert "(100 %) are cut at model.max_tokens=32" in init(table(tmp_path, found=found))
    init(table(tmp_path, found=found), "--model", "demo", "--force")
    assert load("recipe.yaml").model.max_tokens == 64


def test_a_recipe_that_is_there_is_not_written_over(init, tmp_path):
    Path("recipe.yaml").write_text("name: mine\n")
    with pytest.raises(SettingsError, match=r"recipe\.yaml already exists; give --force .* or another --out"):
        init(table(tmp_path))
    assert Path("recipe.yaml").read_text() == "name: mine\n"
    init(table(tmp_path), "--force")
    assert load("recipe.yaml").name == "mail"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("id", "when"),
            "no column looks like the text .* Name it: --text COLUMN.\n  id: identifiers, 240 different in",
        ),
        (
            ("id", "body", "same"),
            r"no column looks like the class .*--label COLUMN.\n  id: .*\n  body: text.*\n  same: one",
        ),
        (("body", "hospital"), "no column looks like the class"),
    ],
)
def test_where_no_column_fits_it_is_refused_with_what_each_looks_like(init, tmp_path, names, message):
    places = [NAMES.index(name) for name in names]
    path = table(tmp_path, names=names, found=[tuple(row[place] for place in places) for row in rows()])
    with pytest.raises(SettingsError, match=message):
        init(path)
    assert not Path("recipe.yaml").exists()


@pytest.mark.parametrize(
    ("row", "recipe"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, r"task: causal-lm}, .*format: messages}"),
        ({"prompt": "when do you open?", "completion": "at nine"}, r"task: causal-lm}, .*format: prompt-completion}"),
        ({"prompt": "when?", "chosen": "at nine today", "rejected": "no"}, r"task: preference}, .*format: preference}"),
    ],
)
def test_rows_of_a_language_model_are_answered_with_the_recipe_to_write(init, tmp_path, row, recipe):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row | {"number": str(number)}) for number in range(40)))
    with pytest.raises(SettingsError, match=f"by hand: model: {{id: smollm2, {recipe} with client_column"):
        init(path)


def test_a_file_of_column_names_alone_is_said_to_be_empty(tmp_path):
    (tmp_path / "mail.csv").write_text("body,mood\n")
    with pytest.raises(SettingsError, match=r"mail\.csv has columns \(body, mood\) and nothing in them"):
        choose(columns_in(str(tmp_path / "mail.csv")), str(tmp_path / "mail.csv"))


def test_a_column_that_no_reader_takes_hides_no_other(tmp_path):
    path = tmp_path / "mail.parquet"
    columns = dict(zip(NAMES, map(list, zip(*rows(), strict=True)), strict=True))
    times = pyarrow.array(range(240), pyarrow.timestamp("s"))
    pyarrow.parquet.write_table(pyarrow.table({**columns, "when": times}), path)
    found = {column.name: column for column in columns_in(str(path))}
    assert "holds timestamp[ms]; save it as text" in str(found["when"].trouble)
    assert (found["note"].empty, found["note"].cells) == (192, 48)
    with pytest.raises(SettingsError, match=r"--text 'when' cannot be used: .*holds timestamp"):
        choose(list(found.values()), "mail", text="when")


def test_texts_without_blanks_between_words_are_texts(tmp_path):
    found = [
        ("号码一二三四五六七八九十"[: 6 + n % 5] + "的航班晚点了" + chr(0x4E00 + n), "ab"[n % 2]) for n in range(60)
    ]
    columns = columns_in(str(table(tmp_path, names=("a", "b"), found=found)))
    assert choose(columns, "mail").text.column.name == "a"


def test_a_source_that_is_not_there_is_said_before_the_recipe_that_is(init, tmp_path):
    Path("recipe.yaml").write_text("name: mine\n")
    with pytest.raises(SettingsError, match=r"there is no such file"):
        init(tmp_path / "absent.csv")


def test_the_recipe_says_what_was_typed(init, tmp_path):
    init(table(tmp_path, ".csv"), "--label", "mood", "--client", "hospital")
    assert "--label mood --client hospital" in " ".join(Path("recipe.yaml").read_text().replace("\n#", "").split())

"""Settings as written: what two readers could understand differently is refused, and no text costs more than itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedlora.config import Recipe, load
from fedlora.plain_yaml import MOST_CHARS, MOST_NODES, YamlError, read_scalar, read_yaml, yaml_text
from fedlora.privacy.policy import load_policy
from fedlora.settings import MOST_CHARS as MOST_SAID
from fedlora.settings import SettingsError, mapping_in, parse, read_mapping
from fedlora.units_path import units_folder
from server.settings import load_server
from server.webhooks import hooks_beside
from tests.bombs import BOMB, ECHO


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("true", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("2026-01-31", "2026-01-31"), ("1_000", "1_000"),
        ("0b11", "0b11"), ("0o17", 15), ("0x1F", 31), ("10", 10), ("-0", 0), ("+3", 3), ("1e-3", 0.001), (".5", 0.5),
        ("5.", 5.0), ("0.5", 0.5), ("0e1", 0.0), (".inf", float("inf")), ("-.INF", -float("inf")), ("~", None),
        ("null", None), ("Null", None), ("nULL", "nULL"), ("<<", "<<"), ("=", "="), ("1.2.3", "1.2.3"), ("12e03", 12e3),
    ],
)  # fmt: skip
def test_a_scalar_means_what_yaml_1_2_says(text, value):
    (read,) = read_yaml(f"- {text}")
    assert (type(read), read) == (type(value), value)
    assert read_yaml(f"- '{text}'") == [text], "quoted, it is text"


@pytest.mark.parametrize("text", ["010", "-007", "00", "08", "00.5", "01e3"])
def test_a_number_that_readers_count_differently_is_refused_with_its_line(text):
    with pytest.raises(
        YamlError, match=r"^line 2: .* begins with 0, .* octal number; remove the 0, or write '.*' for text"
    ):
        read_yaml(f"a: 1\nb: {text}")
    assert read_yaml(f"{text}: x") == {text: "x"}, "a key is text as it is written"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("privacy: {epsilon: 1}\ntrain: {lr: 1}\nprivacy: {}", "^line 1 and line 3 both set privacy; keep one.$"),
        ("a:\n  b: 1\n  'b': 2", "^line 2 and line 3 both set b; keep one.$"),
        (
            "a: 1\nb: &x 2",
            "^line 2: anchors and aliases such as &x are not supported; write the value out, or '&x' for text.$",
        ),
        ("a: *x", r"^line 1: anchors and aliases such as \*x are not"),
        ("&x a: 1", "^line 1: anchors and aliases such as &x are not"),
        ("a: !!python/object:os.system 1", "^line 1: tags such as !!python/object:os.system are not"),
        ("a: ! 1", "^line 1: tags such as ! are not"),
        ("a: 1\n---\nb: 2", "^line 2: a second YAML document starts here; keep one.$"),
        ("? [a]\n: 1", "^line 1: a key must be a name, not a list or a mapping.$"),
        ("'': 1", "^line 1: a key must have 1 to 200 characters; this one has 0.$"),
        ("a: [1", "^line 1, column 6: expected ',' or ']'"),
        ("a: b: c", "^line 1, column 5: mapping values are not allowed here.$"),
        ("a: 1\nb: \x07", "^line 2: a character that is not allowed in text"),
        ("[" * 5000, "^line 1: more than 32 levels of nesting"),
        ("{a: " * 5000, "^line 1: more than 32 levels of nesting"),
        ("- " * 5000, "^line 1: more than 32 levels of nesting"),
        ("- x\n" * (MOST_NODES + 1), f"^line {MOST_NODES}: more than 50,000 values"),
        ("#" * (MOST_CHARS + 1), "^longer than 1,000,000 characters"),
        ("a: " + "9" * 101, "^line 1: a number of 101 characters; the most is 100.$"),
        (f"{'k' * 201}: 1", "^line 1: a key must have 1 to 200 characters; this one has 201.$"),
    ],
)
def test_what_is_not_for_settings_is_refused_in_a_line(text, message):
    with pytest.raises(YamlError, match=message) as refused:
        read_yaml(text)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", [BOMB, ECHO], ids=["a bomb", "an echo"])
def test_a_few_hundred_bytes_stay_a_few_hundred_bytes(text):
    assert len(text) < 500
    with pytest.raises(SettingsError, match=r"line 1: anchors and aliases such as &a are not supported") as refused:
        parse(Recipe, mapping_in(text, "the recipe"))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "{" + ", ".join(f"k{number}: 1" for number in range(5000)) + "}",
        "train: " + "x" * 100_000,
        "name: [" + ", ".join(["x" * 1000] * 100) + "]",
        "data: {labels: [" + ", ".join(["1"] * 5000) + "]}",
        "devices: {" + ", ".join(f"{'s' * 190}{n}: {{r: 0}}" for n in range(500)) + "}",
        "adapter: {targets: {" + ", ".join(f"{'t' * 190}{n}: 1" for n in range(500)) + "}}",
    ],
)
def test_what_is_said_of_a_recipe_is_never_longer_than_a_person_reads(text):
    with pytest.raises(SettingsError) as refused:
        parse(Recipe, mapping_in(text, "the recipe"))
    assert len(str(refused.value)) <= MOST_SAID


def test_a_complaint_says_the_line_of_the_setting_or_of_what_it_is_in():
    text = "name: x\ntrain:\n  steps: 3\n  lr: -1\nwire:\n  codce: int8\nprivacy:\n  client_level:\n    clip: 1\n"
    with pytest.raises(SettingsError) as refused:
        parse(Recipe, mapping_in(text, "the recipe"))
    assert str(refused.value).splitlines() == [
        "train.lr must be greater than 0, got -1. (line 4)",
        "privacy.client_level.noise_multiplier is missing; it is required. (line 8)",
        "unknown setting wire.codce; did you mean wire.codec? (line 6)",
    ]


@pytest.mark.parametrize("text", ["train: {lr: true}", "adapter: {layers: [true]}", "devices: {a: {depth: True}}"])
def test_a_truth_value_is_no_number(text):
    with pytest.raises(SettingsError, match=r"must be a valid (number|integer).*got 'true'. \(line 1\)"):
        parse(Recipe, mapping_in(text, "the recipe"))


def test_words_for_yes_and_no_set_what_has_two_values_and_name_a_class():
    recipe = parse(Recipe, mapping_in("adapter: {rslora: on}\ndata: {labels: [no, yes]}", "the recipe"))
    assert (recipe.adapter.rslora, recipe.data.labels) == (True, ("no", "yes"))


def reads_recipe(path: Path) -> object:
    return load(path)


def reads_policy(path: Path) -> object:
    return load_policy(path)


def reads_server(path: Path) -> object:
    return load_server(path)


def reads_hooks(path: Path) -> object:
    (path.parent / "fedlora.webhooks.yaml").write_bytes(path.read_bytes())
    return hooks_beside(str(path.parent / "fedlora.db"))


@pytest.mark.parametrize("read", [reads_recipe, reads_policy, reads_server, reads_hooks])
def test_every_settings_file_is_read_by_this_reader(tmp_path, read):
    path = tmp_path / "settings.yaml"
    for content, message in (
        (b"name: a\nname: b\n", "line 1 and line 2 both set name; keep one"),
        ("name: caf\xe9\n".encode("latin-1"), "line 1: this is not UTF-8 text; save the file as UTF-8."),
        ("name: caf\xe9\n".encode("utf-16"), "line 1: this is not UTF-8 text; save the file as UTF-8."),
        (BOMB.encode(), "such as &a are not supported"),
        (b"[1, 2]", "must hold `key: value` settings, not a list"),
        (b"# " + b"x" * 5_000_000, "longer than 1,000,000 characters"),
    ):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=re.escape(message)) as refused:
            read(path)
        assert "\n" not in str(refused.value)
    path.write_bytes(b"\xef\xbb\xbfname: with a mark\n")
    assert read_mapping(path, "it") == {"name": "with a mark"}


def test_nothing_else_in_the_project_reads_yaml():
    others = re.compile(r"yaml\.(safe_load|load|full_load|unsafe_load|safe_dump|dump)\b")
    units = [units_folder() / name for name in ("fedlora", "server", "client", "strategies", "simulations")]
    files = [path for unit in units for path in unit.rglob("*.py") if path.name != "plain_yaml.py"]
    assert len(files) > 150
    assert [path.name for path in files if others.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("runs #1.csv", "runs #1.csv"), ("a: b", "a: b"), ("- x", "- x"), ("*.csv", "*.csv"), ("&x", "&x"),
        ("!x", "!x"),
        ("1e-3", 0.001), ("true", True), ("no", "no"), ("", None), ("null", None), ("[a, 2]", ["a", 2]),
        ("{a: 1}", {"a": 1}), ("'7'", "7"), ('"#"', "#"), ("C:\\data", "C:\\data"), ("% of", "% of"), ("@x", "@x"),
        ("caf\xe9, d\xe9j\xe0", "caf\xe9, d\xe9j\xe0"), ("a\nb", "a\nb"), ("?", "?"), ("a,b", "a,b"),
    ],
)  # fmt: skip
def test_a_value_on_the_command_line_is_taken_as_it_was_typed(typed, value):
    assert read_scalar(typed) == value


def test_a_typed_value_that_could_mean_two_things_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: -1.5")
    with pytest.raises(SettingsError, match=r"--set 'seed=010': 010 begins with 0.*remove the 0"):
        load(tmp_path / "recipe.yaml", ["seed=010"])
    with pytest.raises(SettingsError, match=r"--set 'data.labels=\[a': line 1, column 3"):
        load(tmp_path / "recipe.yaml", ["data.labels=[a"])
    assert load(tmp_path / "recipe.yaml", ["seed=10"]).seed == 10, "what is set anew is no longer the file's"


KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")) | st.from_regex(
    r"\A[-+]?[0-9_.:exob]{1,6}\Z"
)
NUMBERS = st.integers(-(10**90), 10**90) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["yes", "no", "on", "null", "~", "<<", "=", "010"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_is_read_again_and_by_other_readers_too(value):
    text = yaml_text({"value": value, "again": [value, value]})
    expected = repr({"value": value, "again": [value, value]})  # repr: nan is itself, and 1 is not 1.0
    assert repr(dict(read_yaml(text))) == expected
    assert repr(yaml.safe_load(text)) == expected


@given(st.text(st.sampled_from("ab:,-[]{}#&*!|>'\"%@`?\n\t 01.~=<"), max_size=60))
def test_any_text_is_a_value_or_refused_in_a_short_line(text):
    said = ""
    try:
        read_yaml(text)
    except YamlError as refused:
        said = str(refused)
    assert len(said) < 400


def test_the_packaged_recipes_mean_what_they_meant():
    for path in sorted((units_folder() / "simulations" / "recipes").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert parse(Recipe, mapping_in(text, path.name)) == parse(Recipe, yaml.safe_load(text))

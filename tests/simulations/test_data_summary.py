"""What is in the data is said before a model is loaded, and what the data contradict is refused there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedlora.config import load
from fedlora.packaged import packaged
from fedlora.settings import SettingsError
from simulations import run
from simulations.commands.simulate import said_once
from simulations.run import prepare
from strategies.compatibility import case_of, refusals
from tests.federations import tiny_recipe


@pytest.fixture
def said(tiny_model, messages, monkeypatch):
    """What `prepare` says of this recipe; the model must not be loaded before."""

    def of(*overrides: str, source: str = messages, rows: str | None = None, folder: Path | None = None) -> str:
        if rows is not None:
            assert folder is not None
            source = str(folder / "rows.csv")
            Path(source).write_text(f"text,label,client\n{rows}")
        heard: list[str] = []

        def too_early(*given: object) -> None:
            raise LookupError("a model")

        recipe = tiny_recipe(tiny_model, source, *overrides)
        with monkeypatch.context() as patch:
            patch.setattr(run, "loaded_model", too_early)
            with pytest.raises(LookupError):
                prepare(recipe, say=heard.append)
        return "\n".join(heard)

    return of


def test_rows_classes_clients_and_lengths_are_said(said, messages):
    text = said()
    assert f"data      {messages}: 160 of 160 rows\n" in text
    assert re.search(r"classes   bad \d+ \(\d+ %\), good \d+ \(\d+ %\)\n", text)
    assert re.search(r"clients   4, to train \+ to test: blue \d+ \+ \d+, green", text)
    assert "test set  20 texts that no client has\n" in text
    assert "careful   the test set is small: an accuracy on 20 texts is ± 0.11; raise data.held_out" in text
    assert "the test set is small" not in said("data.held_out=50")
    assert re.search(r"the longest has \d+ tokens; none is cut at model\.max_tokens=16", text)


def test_every_row_is_said_to_train_to_test_or_to_be_used_nowhere(said):
    split = (
        r"split     of 160 rows (\d+) train; (\d+) test at their clients \(data\.test_fraction\), 20 are the shared "
    )
    found = re.search(split + r"test set \(data\.held_out\)\n", said())
    assert found is not None
    assert int(found[1]) + int(found[2]) == 140
    text = said("data.max_examples=5")
    assert re.search(split + rf"test set \(data\.held_out\), {140 - 20 - int(found[2])} are used nowhere\n", text)


def test_the_longest_text_is_counted_whole_though_it_is_cut(said):
    assert re.search(r"the longest has 1[01] tokens; 160 of 160 \(100 %\) are cut at model\.max_tokens=4",
                     said("model.max_tokens=4"))  # fmt: skip


def test_what_is_left_out_and_what_is_seldom_meant_are_said(said, tmp_path):
    rows = [f"the {number} flight,{('good', 'Good ')[number % 2]},{client}" for number in range(40) for client in "pq"]
    rows += [
        "twice,good,p",
        "twice,good,p",
        "both,good,p",
        "both,Good ,p",
        ",good,p",
        "shared,good,p",
        "shared,Good ,q",
    ]
    text = said("train.batch_size=32", rows="\n".join(rows) + "\n", folder=tmp_path)
    assert "83 of 87 rows; left out: 1 repeated, 2 that come with several classes, 1 with nothing in column" in text
    assert "careful   the classes 'Good ' and 'good' differ only in case or spaces" in text
    assert "careful   2 rows are left out because their text comes with several classes" in text
    assert "careful   1 texts are at several clients with different classes" in text
    assert "careful   2 clients have fewer examples than one batch (train.batch_size=32): p, q" in text


def test_names_from_data_write_nothing_on_a_terminal(said, tmp_path):
    rows = "\n".join(f"the {number} flight,{'ab'[number % 2]},x\x1b[31m{number % 2}" for number in range(80))
    text = said(rows=rows + "\n", folder=tmp_path)
    assert "\x1b" not in text
    assert r"'x\x1b[31m0'" in text


def test_many_clients_and_classes_are_told_by_their_ends(said, tmp_path):
    rows = "\n".join(f"the {number} flight,c{number % 14},s{number % 20}" for number in range(400))
    text = said(rows=rows + "\n", folder=tmp_path)
    assert re.search(r"clients   20, to train \+ to test: from s\d+ \d+ \+ \d+ to s\d+", text)
    assert re.search(r"classes   14, from c\d+ with \d+ rows to c\d+ with \d+", text)


def test_what_was_said_is_not_said_again(capsys):
    say = said_once()
    say("a [bold]b")
    say("a [bold]b")
    assert capsys.readouterr().err == "a [bold]b\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rounds.min_clients=5"], r"rounds\.min_clients=5, and the data have 4 clients; lower it"),
        (["data.clients=4"], r"data\.clients=4 has no effect with data\.partition=natural: .*'client'.*or use .*iid"),
        (["data.alpha=0.1"], r"data\.alpha=0\.1 has no effect with data\.partition=natural.*use data\.partition=dir"),
        (["train.optimizer=adamw", "train.momentum=0.9"], r"train\.momentum=0\.9 has no effect with .*adamw"),
        (["train.weight_decay=0.1"], r"train\.weight_decay=0\.1 has no effect with .*sgd"),
        (["model.device=cuda:99"], "device 'cuda:99' is not available on this machine; use cpu"),
        (["model.device=gpu"], "device 'gpu' is not available on this machine"),
        (["robust.rule=multi-krum", "robust.attackers=1"], r"5 updates, and of 4 clients a round asks 4"),
        (["strategy.name=hetlora", "devices.gren.r=1"], r"devices\.gren is no client .*; did you mean 'green'\?"),
        (["strategy.name=hetlora", "devices.othrs.r=1"], r"did you mean 'others'\?"),
        (["strategy.name=hetlora", "devices.x.r=1"], r"devices\.x is no client .*; the clients are blue, green, red"),
        (["adapter.r=17"], r"adapter\.r=17 is above the smaller side of .* \(16 x 16\); set it to 16 or less"),
        (["adapter.targets=[query, valeu]"], r"'valeu' matches no matrix of this model; did you mean 'value'\?"),
        (["adapter.layers=[0, 7]"], r"adapter\.layers: layer 7 has nothing to adapt; the model's layers are 0 to 1"),
        (["data.text=Text"], r"did you mean 'text'\?"),
        (
            ["data.source=airlines", "data.text=tweet"],
            r"data\.text=tweet has no effect with .*airlines, which is a packaged corpus",
        ),
    ],
)
def test_settings_that_contradict_the_data_or_do_nothing_are_refused_before_a_run(
    tiny_model, messages, overrides, message
):
    with pytest.raises(SettingsError, match=message):
        prepare(tiny_recipe(tiny_model, messages, *overrides))


def test_labels_that_repeat_are_refused(tiny_model, messages):
    with pytest.raises(SettingsError, match=r"data\.labels: 'good' stands there twice"):
        tiny_recipe(tiny_model, messages, "data.labels=[good, bad, good]")


def test_hundreds_of_classes_are_a_mistake_unless_they_are_listed(tiny_model, tmp_path):
    labels = [f"at {number}" for number in range(201)]
    path = tmp_path / "times.csv"
    path.write_text("text,label,client\n" + "".join(f"text {n},{labels[n % 201]},c\n" for n in range(402)))
    with pytest.raises(SettingsError, match=r"data\.label='label': .* has 201 different values.*list them in data\.la"):
        prepare(tiny_recipe(tiny_model, str(path)))
    assert len(prepare(tiny_recipe(tiny_model, str(path), f"data.labels={labels}")).data.labels) == 201


@pytest.mark.parametrize("path", packaged().values(), ids=lambda path: path.stem)
def test_every_setting_of_a_packaged_recipe_does_something(path):
    assert list(refusals(case_of(load(path)))) == []

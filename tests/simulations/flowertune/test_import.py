"""`fedlora import-flowertune`: every key is mapped or named, and what it writes runs and loads as FlowerTune's does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.config import load
from fedlora.config.schedule import rate_of_round
from fedlora.settings import SettingsError
from simulations.flowertune.recipe import app_in, flat, recipe_of, silent
from simulations.flowertune.rows import pairs_in, write_rows
from simulations.flowertune.settings import ACCUMULATION, ARGUMENTS, BATCH, mapped
from tests.chats import save_chat_model
from tests.federations import run
from tests.flowertune.moved import APP

CONFIG = {
    "model.name": "m", "model.lora.peft-lora-r": 8, "train.learning-rate-max": 1e-4, "train.seq-length": 64,
    "num-server-rounds": 3, f"{ARGUMENTS}max-steps": 10, BATCH: 16,
}  # fmt: skip


@pytest.fixture
def sums(tmp_path: Path) -> str:
    rows = [{"instruction": f"{n}+{m}?", "input": "", "output": str(n + m)} for n in range(9) for m in range(10)]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def imported(*words: object) -> str:
    done = CliRunner().invoke(app, ["import-flowertune", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.mark.parametrize("way", ["--faithful", "--fixed"])
def test_the_recipe_of_an_app_is_what_its_settings_say(tmp_path, sums, way):
    out = tmp_path / "recipe.yaml"
    said = imported(APP, "--source", sums, "--out", out, way)
    recipe = load(out)
    assert (recipe.adapter.r, recipe.adapter.alpha, recipe.adapter.dropout) == (2, 4, 0.075)
    assert (recipe.train.lr, recipe.train.steps, recipe.train.batch_size) == (2e-2, 2, 4)
    assert (recipe.rounds.count, recipe.rounds.export_every, recipe.data.clients) == (2, 2, 3)
    assert (recipe.strategy.name, recipe.model.load_dtype) == ("fedit", "nf4")
    assert recipe.data.max_examples == (8 if way == "--faithful" else None)
    for named in ("model.quantization", "train.learning-rate-min", "the same 8 examples", "end token", "chat template"):
        assert named in said
    assert "NOT mapped: nothing" in said


def test_every_key_of_the_app_is_in_exactly_one_list():
    found = app_in(APP).found
    lists = [set(found.mapped), set(found.without_effect), set(found.not_mapped)]
    assert sum(map(len, lists)) == len(set().union(*lists)) == 24


@pytest.mark.parametrize(("lowest", "share"), [(1e-6, 1e-2), (0.0, 1e-3), ("1e-5", 0.1)])
def test_the_cosine_over_rounds_is_the_recipe_s_and_ends_where_the_app_s_does(lowest, share):
    found = mapped({**CONFIG, "train.learning-rate-min": lowest})
    recipe, _ = recipe_of(replace(app_in(APP), found=found), "rows.jsonl", faithful=False, clients=None)
    assert (recipe.train.schedule, recipe.train.schedule_over) == ("cosine", "rounds")
    assert recipe.train.min_lr_rate == pytest.approx(share)
    rates = [rate_of_round(recipe, number) for number in (1, 2, 3)]
    assert rates == pytest.approx([1e-4, 1e-4 * (1 + share) / 2, 1e-4 * share])
    assert "round 1 has the whole rate here, in the app 7." in found.mapped["train.learning-rate-min"]


def test_a_cosine_that_a_recipe_cannot_have_is_said():
    one = {**CONFIG, "train.learning-rate-min": 1e-6, "num-server-rounds": 1}
    assert "--set train.lr=1e-06 is the app's" in mapped(one).not_mapped["train.learning-rate-min"]
    assert mapped({**CONFIG, "train.learning-rate-min": 1e-4}).without_effect
    with pytest.raises(SettingsError, match=r"learning-rate-min=1 is not from 0 to train\.learning-rate-max=0\.0001"):
        mapped({**CONFIG, "train.learning-rate-min": 1.0})


def test_a_key_that_nobody_knows_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"unknown in a FlowerTune app: fdlora\.sync-ratio"):
        mapped({**CONFIG, "fdlora.sync-ratio": 1.0})


def test_epochs_without_steps_are_refused():
    with pytest.raises(SettingsError, match="max-steps is not set"):
        mapped({key: value for key, value in CONFIG.items() if "max-steps" not in key})


def test_no_default_of_a_recipe_stands_in_for_what_an_app_leaves_out():
    with pytest.raises(SettingsError, match=r"does not set train\.learning-rate-max, num-server-rounds"):
        mapped({key: value for key, value in CONFIG.items() if "rate" not in key and "rounds" not in key})
    read = replace(app_in(APP), clients=None)
    with pytest.raises(SettingsError, match=r"--clients is missing.*--clients 20"):
        recipe_of(read, "rows.jsonl", faithful=True, clients=None)


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        (ACCUMULATION, 4, {"train.batch_size": 64}),
        ("strategy.fraction-train", 0.2, {"rounds.fraction": 0.2}),
        ("train.training_arguments.weight_decay", 0.1, {"train.weight_decay": 0.1}),
        (f"{ARGUMENTS}bf16", True, {"model.dtype": "bfloat16"}),
    ],
)
def test_other_keys_of_such_apps_are_mapped(key, value, setting):
    assert setting.items() <= mapped({**CONFIG, key: value}).settings.items()


@pytest.mark.parametrize(
    ("key", "value"),
    [(f"{ARGUMENTS}lr-scheduler-type", "linear"), (f"{ARGUMENTS}warmup-steps", 5), ("strategy.fraction-evaluate", 0.5)],
)
def test_a_value_without_a_counterpart_is_named(key, value):
    assert repr(value) in mapped({**CONFIG, key: value}).not_mapped[key]


def test_a_second_column_of_the_question_stands_below_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("instruction,input,output\nadd,1 and 2,3\ngreet,,hello\nnothing,x,\n")
    assert list(pairs_in(str(path))) == [("add\n1 and 2", "3"), ("greet", "hello")]


def test_rows_without_such_columns_are_refused_with_theirs(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(SettingsError, match=r"has the columns text, label, and none of: instruction"):
        list(pairs_in(str(path)))


def test_without_its_data_it_says_how_to_get_them(tmp_path):
    with pytest.raises(SettingsError, match=r"--source is missing.*someone/sums"):
        imported(APP, "--out", tmp_path / "recipe.yaml")


def test_a_folder_that_is_no_such_app_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    with pytest.raises(SettingsError, match="no app of FlowerTune's kind"):
        app_in(tmp_path)
    with pytest.raises(SettingsError, match="cannot read"):
        app_in(tmp_path / "nothing")


def test_nested_tables_are_flattened_as_flower_does():
    assert flat({"model": {"lora": {"r": 1}}, "n": 2}) == {"model.lora.r": 1, "n": 2}


def test_the_run_leaves_an_adapter_of_each_round_that_its_evaluation_loads(tmp_path, sums):
    """From the app to `peft_N`: the lines are those of FlowerTune's eval.py, without 4 bits and a GPU."""
    base = save_chat_model(tmp_path / "tiny-llama")
    read = app_in(APP)
    read.found.settings.update({"model.id": base, "model.load_dtype": "float32", "rounds.export_every": 1})
    rows = tmp_path / "rows.jsonl"
    write_rows(sums, rows, faithful=False)
    recipe, _ = recipe_of(read, str(rows), faithful=False, clients=None)
    out = tmp_path / "run"
    summary = run(recipe, out)
    assert summary["bytes_up"] > 0
    assert sorted(path.name for path in out.glob("peft_*")) == ["peft_1", "peft_2"]
    ids, seen = torch.tensor([[3, 4, 5, 6]]), []
    for folder in (out / "peft_1", out / "peft_2", out / "adapter"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        with torch.no_grad():
            seen.append(model(ids).logits)
    assert torch.equal(seen[1], seen[2]), "the last round's is the run's own"
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("faithful", [True, False])
def test_every_silent_default_says_what_becomes_of_it(faithful):
    recipe, _ = recipe_of(app_in(APP), "rows.jsonl", faithful=faithful, clients=None)
    said = [became for _, became in silent(recipe, faithful=faithful)]
    assert all(became.startswith(("kept", "mended", "cannot be kept", "not kept")) for became in said)

"""What `fedlora compare` plans, and which setting of a sweep is reported."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from fedlora.cli import load_command
from fedlora.settings import SettingsError
from fedlora.tasks.guessing import ACCURACY
from server.record.lines import read_records
from server.record.records import RoundRecord
from server.store.opening import open_store
from server.store.reading import read_runs
from simulations.by_example import read_each
from simulations.commands.compare import compared, whole_numbers
from simulations.comparing.finished import Run
from simulations.comparing.planning import plan, repeated
from simulations.comparing.rows import best_rows
from simulations.comparing.running import run_missing
from simulations.comparing.writing import write_outputs
from simulations.terminal.pictures import curves_of, draw_comparison
from tests.federations import run


def finished_run(settings: str, seed: int, accuracy: float, standing: str | None = None) -> Run:
    summary = {
        "accuracy": accuracy, "loss": 1.0, "aggregation_error_max": None, "bytes_up": 0, "bytes_down": 0, "seconds": 1,
        "standing": standing,
    }  # fmt: skip
    return Run("ffa", settings, seed, Path("nowhere"), summary)


def test_the_best_of_a_sweep_is_repeated_with_the_other_seeds(tmp_path):
    swept = [finished_run("train.lr=0.1", 0, 0.8), finished_run("train.lr=0.2", 0, 0.7)]
    again = repeated(swept, ["ffa.yaml"], [1, 2], ["rounds.count=2"], tmp_path)
    assert [(item.settings, item.seed) for item in again] == [("train.lr=0.1", 1), ("train.lr=0.1", 2)]
    assert again == plan(["ffa.yaml"], ["train.lr=0.1"], [1, 2], ["rounds.count=2"], tmp_path)


def test_the_repeated_setting_is_reported_even_if_its_mean_fell_below_another_ones_single_seed():
    runs = [finished_run("train.lr=0.1", seed, accuracy) for seed, accuracy in enumerate((0.8, 0.6, 0.7))]
    (row,) = best_rows([*runs, finished_run("train.lr=0.2", 0, 0.79)])
    assert (row.settings, row.seeds, row.score) == ("train.lr=0.1", 3, pytest.approx(0.7))
    assert row.spread == pytest.approx(0.1)


@pytest.mark.parametrize("width", [80, 200])
def test_the_worst_verdict_of_the_seeds_is_in_the_table_whole_at_every_width(width, tmp_path):
    standings = ("better than guessing", "no better than guessing", "better than guessing")
    runs = [finished_run("train.lr=0.1 adapter.r=16", seed, 0.6, said) for seed, said in enumerate(standings)]
    rows = best_rows(runs)
    console = Console(width=width, file=StringIO())
    console.print(compared(rows, width=width))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"no", "better", "than", "guessing", "0.6000", "±", "0.0000"} <= set(words)
    write_outputs(rows, rows, tmp_path)
    assert "| no better than guessing |" in (tmp_path / "comparison.md").read_text()


def test_runs_of_tasks_that_are_judged_by_different_figures_are_not_compared():
    loss = replace(finished_run("", 0, 0.6), summary={"metric": "loss", "larger_is_better": False, "score": 0.5})
    with pytest.raises(SettingsError, match=r"different main metrics \(accuracy, loss\): compare runs of one task"):
        best_rows([finished_run("", 0, 0.6), loss])


def test_a_run_of_before_the_verdicts_is_compared_too():
    (row,) = best_rows([finished_run("", 0, 0.6)])
    assert row.standing is None


def test_seeds_that_are_no_numbers_are_refused_by_the_option_s_name():
    assert whole_numbers("0,1", option="--seeds") == [0, 1]
    with pytest.raises(SettingsError, match="--repeat '1,x': write whole numbers separated by commas"):
        whole_numbers("1,x", option="--repeat")


def test_a_comparison_sweeps_keeps_what_is_finished_and_goes_on_where_it_stopped(recipe, tmp_path):
    """One process, several methods, rates and seeds; a second call does nothing twice."""
    files = []
    for name in ("fedit", "ffa"):
        settings = recipe(f"strategy.name={name}", f"name={name}", "rounds.count=2").model_dump(mode="json")
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        files.append(str(tmp_path / f"{name}.yaml"))
    out = tmp_path / "out"
    words = [*files, "--sweep", "train.lr=0.2,0.5", "--seeds", "0,1", "--out", str(out), "--json"]
    first = CliRunner().invoke(load_command("compare"), words)
    assert first.exit_code == 0, first.output
    assert len(json.loads(first.stdout)) == 4
    assert "8 of 8: ffa train.lr=0.5 seed 1" in first.stderr
    files_of = {"comparison.csv", "comparison_rounds.csv", "comparison.md", "comparison.tex", "comparison.png"}
    assert files_of <= {file.name for file in out.iterdir()}
    require_numbers(out)
    begun = out / "fedit/train.lr-0.2/seed-0"
    (begun / "summary.json").unlink()  # as if it had been killed after its last checkpoint
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*/summary.json")}
    again = CliRunner().invoke(load_command("compare"), words)
    assert json.loads(again.stdout)[1:] == json.loads(first.stdout)[1:]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(kept) == 7
    assert (begun / "summary.json").exists()


def require_numbers(out: Path) -> None:
    """A row a run, and a row a run and round, that say what they are one of; the store knows it too."""
    with (out / "comparison.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    with (out / "comparison_rounds.csv").open(newline="") as file:
        rounds = list(csv.DictReader(file))
    assert (len(runs), len(rounds)) == (8, 16)
    assert {(row["group"], row["method"], row["seed"], row["train.lr"]) for row in runs} == {
        ("out", method, seed, rate) for method in ("fedit", "ffa") for seed in "01" for rate in ("0.2", "0.5")
    }
    for row in runs:
        summary = json.loads((Path(row["folder"]) / "summary.json").read_text())
        assert float(row["score"]) == summary["accuracy"]
        kept = read_each(Path(row["folder"])).figures["accuracy"]
        assert kept[:, 0].sum() / kept[:, 1].sum() == pytest.approx(summary["accuracy"])
        assert len(kept) == summary["test_examples"]
    assert float(rounds[1]["bytes_up"]) == float(runs[0]["bytes_up"]), "sums up to the end of the round"
    assert "two seeds say nothing" in (out / "comparison.md").read_text()
    store = open_store(out.parent / "fedlora.db")
    with store.reading() as connection:
        stored = {run.name: (run.group, run.method, run.seed, run.changed) for run in read_runs(connection)}
    store.close()
    assert stored["out/ffa/train.lr-0.5/seed-1"] == ("out", "ffa", 1, {"train.lr": 0.5})
    assert len(stored) == 8


def test_an_interrupted_run_is_resumed_and_an_unbegun_one_is_begun(recipe, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(recipe("rounds.count=1").model_dump(mode="json")))
    planned = plan([str(file)], [], [0, 1], [], tmp_path / "out")
    planned[0].folder.mkdir(parents=True)
    (planned[0].folder / "checkpoint.safetensors").touch()
    resumed = []

    def simulate(settings, folder, *, trial, name, resume):
        resumed.append(resume)
        assert (trial.group, trial.method, trial.changed, name) == (
            "out",
            "tiny",
            {},
            f"out/tiny/default/{folder.name}",
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"seed": settings.seed}))

    run_missing(planned, simulate, say=lambda text: None)
    assert resumed == [True, False]


def test_a_comparison_shows_quality_against_rounds_and_bytes_and_the_aggregation_error(recipe, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    run(recipe("strategy.name=fedit", "rounds.evaluate_every=2"), tmp_path / "run")
    rounds, drawn = list(read_records(tmp_path / "run")), []
    plot = Axes.plot

    def noted(self, x, y, **line):
        drawn.append((line["label"], list(x), list(y)))
        return plot(self, x, y, **line)

    monkeypatch.setattr(Axes, "plot", noted)
    draw_comparison({"fedit": [rounds]}, ACCURACY, tmp_path / "picture.png")
    by_round, by_bytes, by_time, by_error = drawn
    assert by_time[1][-1] == pytest.approx(sum(record.seconds for record in rounds))
    assert by_round[1:] == ([2, 3], [record.evaluation.value("accuracy") for record in rounds[1:]])
    assert by_bytes[1][-1] == pytest.approx(sum(record.bytes_up + record.bytes_down for record in rounds) / 1e6)
    assert by_error[1:] == ([1, 2, 3], [record.aggregation_error for record in rounds])


def test_a_method_without_an_aggregation_error_has_no_such_curve():
    rounds = [[RoundRecord(number, (), None, None, 0, 1.0) for number in (1, 2)]]
    numbers, curves = curves_of(rounds, lambda record: record.aggregation_error)
    assert (numbers, curves.size) == ([], 0)


def test_a_variant_is_a_method_of_its_own_with_a_folder_of_its_own():
    variants = ["dense", "1/16:wire.codec=int4,wire.density=0.0625"]
    planned = plan(["a/ffa.yaml"], ["train.lr=0.1,0.2"], [0, 1], ["rounds.count=2"], Path("out"), variants)
    assert [item.method for item in planned] == ["ffa dense"] * 4 + ["ffa 1/16"] * 4
    assert len({item.folder for item in planned}) == 8
    assert planned[-1].folder == Path("out/ffa/1-16/train.lr-0.2/seed-1")
    assert planned[-1].overrides == (
        "rounds.count=2", "wire.codec=int4", "wire.density=0.0625", "train.lr=0.2", "seed=1",
    )  # fmt: skip
    assert planned[0].overrides == ("rounds.count=2", "train.lr=0.1", "seed=0")


def test_the_best_of_a_sweep_is_repeated_in_every_variant(tmp_path):
    variants = ["dense", "sign:wire.codec=sign"]
    swept = [replace(finished_run("train.lr=0.1", 0, 0.8), method=f"ffa {name}") for name in ("dense", "sign")]
    again = repeated(swept, ["ffa.yaml"], [1], [], tmp_path, variants)
    assert again == plan(["ffa.yaml"], ["train.lr=0.1"], [1], [], tmp_path, variants)


def test_without_variants_a_recipe_is_one_method():
    (planned,) = plan(["ffa"], [], [3], [], Path("out"))
    assert (planned.method, planned.folder) == ("ffa", Path("out/ffa/default/seed-3"))


def test_a_variant_without_a_name_is_refused():
    with pytest.raises(SettingsError, match=r"--variant 'wire\.codec=int4': write it as NAME:key=value"):
        plan(["ffa"], [], [0], [], Path("out"), ["wire.codec=int4"])

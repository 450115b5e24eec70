"""A task that is compared by its loss goes from the recipe to the page: nothing on the way asks for an accuracy."""

from __future__ import annotations

import json
import shutil
from io import StringIO

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from matplotlib.axes import Axes
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner as TyperRunner

from fedlora.cli import app, load_command
from fedlora.plain_yaml import yaml_text
from fedlora.tasks.metric import LOSS
from server.dashboard.app import create_app
from server.dashboard.doors.access import Access, Role
from server.dashboard.doors.gate import Auth
from server.dashboard.drawing.theme import LIGHT
from server.dashboard.machine.api import add_api
from server.dashboard.pages import run_parts, runs
from server.deployment.metrics import of_runs
from server.record.lines import read_records
from server.runs.submissions import submit
from server.store.exporting import measured
from server.store.importing import import_run
from server.store.opening import open_store
from server.store.reading import find_run, read_rounds, read_run_sites, read_runs, verdict_of
from server.trust.provision import initialise
from simulations.commands.compare import compared
from simulations.comparing.finished import finished
from simulations.comparing.rows import best_rows
from simulations.comparing.writing import cells, write_outputs
from simulations.run import prepare, simulate
from simulations.terminal.pictures import draw_curves
from simulations.terminal.screen import header, line
from tests.federations import save_messages, save_tiny_model, tiny_recipe
from tests.one_figure import one_figure

RATES = ("0.05", "0.5")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-figure")
    with one_figure() as name:
        yield name, save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")


@pytest.fixture(scope="module")
def federation(files):
    """`federation("train.lr=0.1")`: two rounds of the tiny federation, for this task."""
    name, model, source = files
    return lambda *more: tiny_recipe(model, source, f"model.task={name}", "rounds.count=2", "train.steps=10", *more)


@pytest.fixture(scope="module")
def folder(federation, tmp_path_factory):
    """Two runs of unlike rates, in one store."""
    runs = tmp_path_factory.mktemp("runs")
    for rate in RATES:
        recipe = federation(f"train.lr={rate}", "name=one")
        simulate(prepare(recipe), runs / rate, watch=lambda event: None, store=str(runs / "fedlora.db"))
    return runs


@pytest.fixture
def store(folder):
    opened = open_store(folder / "fedlora.db")
    yield opened
    opened.close()


def test_the_summary_has_the_loss_and_says_that_it_is_what_counts(folder):
    summary = json.loads((folder / "0.5/summary.json").read_text())
    *_, last = read_records(folder / "0.5")
    assert (summary["metric"], summary["larger_is_better"]) == ("loss", False)
    assert summary["score"] == summary["loss"] == last.evaluation.loss
    assert set(summary["loss_by_client"]) == {"blue", "green", "red", "white"}
    assert not any("accuracy" in key or "majority" in key for key in summary)
    assert summary["standing"] == "better than at first"
    assert "still falling" in " ".join(summary["verdict"])


def test_the_store_keeps_the_loss_as_the_score_and_the_smallest_as_the_best(folder, store):
    with store.reading() as connection:
        run = find_run(connection, "0.5")
        rounds, sites = read_rounds(connection, run), read_run_sites(connection, run)
    losses = [record.evaluation.loss for record in read_records(folder / "0.5")]
    assert [row.score for row in rounds] == [row.loss for row in rounds] == losses
    assert (run.metric, run.larger_is_better, run.unit, run.metrics) == ("loss", False, "nats", {})
    assert (run.score, run.best_score, run.accuracy) == (losses[-1], min(losses), None)
    assert all(site.score == site.loss is not None for site in sites)
    assert dict(measured(rounds[0], run.judged_by))["loss"] == losses[0]


def test_a_folder_is_imported_as_it_was_kept(folder, store, tmp_path):
    rebuilt = open_store(tmp_path / "new.db")
    with rebuilt.writing() as connection:
        import_run(connection, folder / "0.5", name="0.5", who="ada", now=2e9)
    with rebuilt.reading() as new, store.reading() as old:
        ours, theirs = find_run(new, "0.5"), find_run(old, "0.5")
    rebuilt.close()
    assert (ours.judged_by, ours.score, ours.best_score) == (LOSS, theirs.score, theirs.best_score)


def test_the_api_and_prometheus_name_the_metric(folder, store, tmp_path):
    access = Access(tmp_path / "access.json")
    board = create_app(Auth(access, hosts=None))
    add_api(board, store)
    client = TestClient(board, headers={"Authorization": f"Bearer {access.add_token('viewer', Role.VIEWER, days=1)}"})
    found = client.get("/api/v1/runs/0.5").json()["run"]
    assert (found["metric"], found["score"], found["metrics"], found["accuracy"]) == ("loss", found["loss"], {}, None)
    (samples,) = (
        family.samples
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if family.name == "fedlora_evaluation"
    )
    assert {(one.labels["run"], one.labels["metric"]) for one in samples} == {(rate, "loss") for rate in RATES}


def test_pages_are_headed_by_the_metric_and_show_the_loss_once(folder, store):
    with store.reading() as connection:
        listed, run = read_runs(connection), find_run(connection, "0.5")
        sites, rounds = read_run_sites(connection, run), tuple(read_rounds(connection, run))
    table = runs.run_table(listed, runs.Choice())
    shown = run_parts.summary(run, sites) + run_parts.client_table(sites, run.judged_by)
    assert 'data-label="Loss"' in table
    assert f"{run.score:.3g} nats" in table
    assert "Accuracy" not in table + shown
    assert (shown.count("<dt>Loss</dt>"), shown.count(">Loss (nats)<")) == (1, 1)
    chart = runs.by_round(LIGHT, runs.Shown((), ((run, rounds),)))
    assert chart["yAxis"][0]["name"] == "loss (nats)"
    assert "note good" in run_parts.verdict(*verdict_of(run))


def test_the_picture_and_the_table_of_rounds_show_the_loss(federation, tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.run.draw_curves", draw_curves)  # as it ships
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda self, title, **more: titles.append(title))
    simulate(prepare(federation()), tmp_path / "run", watch=lambda event: None)
    assert titles[0] == "loss on the shared test set"
    first, *_ = read_records(tmp_path / "run")
    assert header(LOSS).split()[:2] == ["round", "loss"]
    assert line(first, LOSS).split()[:2] == ["1", f"{first.evaluation.loss:.4f}"]
    assert len(header(LOSS)) == len(line(first, LOSS))


def test_a_comparison_prefers_the_smaller_loss(folder, tmp_path):
    found = [finished(folder / rate, method="one", settings=f"train.lr={rate}") for rate in RATES]
    (best,) = best_rows(found)
    assert best.score == min(run.summary["loss"] for run in found)
    assert list(cells(best)).count("loss") == 1
    write_outputs([best], [best], tmp_path)
    assert (tmp_path / "comparison.csv").read_text().startswith("group,method,seed,metric,score,loss,")
    console = Console(width=80, file=StringIO())
    console.print(compared([best], width=80))
    assert "loss" in console.file.getvalue()


def test_the_commands_say_the_loss(federation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml_text(federation().model_dump(mode="json")))
    simulated = CliRunner().invoke(load_command("simulate"), [str(recipe), "--out", str(tmp_path / "run")])
    assert simulated.exit_code == 0, simulated.output
    assert simulated.stdout.startswith("loss 0.")
    tried = TyperRunner().invoke(app, ["find-lr", str(recipe), "--rates", "1e-5,0.5,1e7", "--json"])
    found = json.loads(tried.stdout)
    assert found["lr"] == 0.5
    assert [one["verdict"] for one in found["tried"]][1:] == ["learns", "diverged"]


def test_noise_shrinks_where_the_loss_is_above_what_is_wanted(federation, tmp_path):
    """The first two rounds end above: the third is asked for half as much noise, twice."""
    asked = ("privacy.epsilon=3", "privacy.adapt={below: 1e-9, start: 2.0, by: 0.5, least: 0.5}", "rounds.count=3")
    simulate(prepare(federation(*asked)), tmp_path / "run", watch=lambda event: None)
    noise = [record.clients[0].receipt.noise_multiplier for record in read_records(tmp_path / "run")]
    assert noise[0] > noise[1] > noise[2]


def test_a_coordinator_s_metrics_need_no_accuracy(folder, federation, tmp_path):
    submitted = submit(initialise(tmp_path / "server", name="net", address="x:1"), federation(), name="one")
    shutil.copy(folder / "0.5/rounds.jsonl", submitted)
    families = {family.name: family.samples for family in of_runs([submitted])}
    assert [sample.labels["metric"] for sample in families["fedlora_evaluation"]] == ["loss"]
    assert families["fedlora_accuracy"] == []

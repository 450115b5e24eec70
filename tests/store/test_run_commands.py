"""`fedlora runs`: what a terminal and a script see of the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlora.settings import SettingsError
from server.commands.runs import app
from server.store.opening import open_store
from server.store.privacy import read_privacy
from server.store.reading import find_run, read_client_rounds, read_rounds, read_run_sites, read_runs
from server.store.writing import begin_run, set_run, write_round
from simulations.run import prepare, simulate
from tests.store.examples import MACHINE, client, facts, private, record


@pytest.fixture
def url(tmp_path):
    url = str(tmp_path / "fedlora.db")
    store = open_store(url)
    with store.writing() as connection:
        for number, kind in enumerate(("simulation", "deployment")):
            key = begin_run(connection, facts(str(number) * 32, name=f"run-{number}", kind=kind), at=1000.0 + number)
            write_round(connection, key, private(1, run=str(number) * 32), at=1010.0)
            second = [client("a", 2, machine=MACHINE), client("b", 2, outcome="late")]
            write_round(connection, key, record(2, second), at=1020.0)
            set_run(connection, key, state="finished")
    store.close()
    return url


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_runs_are_listed_for_a_person_and_for_a_script(url):
    shown = call("list", "--store", url)
    assert all(part in shown for part in ("run-0", "run-1", "2/4", "0.7000", "(10%)"))
    listed = json.loads(call("list", "--store", url, "--json"))
    assert [(run["name"], run["rounds"], run["state"]) for run in listed] == [
        ("run-1", 2, "finished"), ("run-0", 2, "finished"),
    ]  # fmt: skip
    assert json.loads(call("list", "--store", url, "--json", "--active")) == []


def test_a_long_name_stands_on_one_line_and_columns_make_room(url):
    name = "six-airlines/the-northern-clinics-of-the-lakes-and-valleys"
    store = open_store(url)
    with store.writing() as connection:
        begin_run(connection, facts("2" * 32, name=name), at=3000.0, host="elsewhere")
    store.close()
    shown = call("list", "--store", url).splitlines()
    assert f"{name} 22222222" in shown[1]
    assert shown[-1].startswith("(not shown, too little space: strategy")


def test_one_run_is_shown_with_its_sites_and_why_some_did_not_train(url):
    said = call("show", "run-0", "--store", url)
    assert "b late (no-answer): 1 x, last in round 2" in said
    assert "a: fedlora 0.0.9 on cuda:0, H100 (Python 3.12.1, torch 2.9.0, flwr 1.39.0)" in said
    shown = json.loads(call("show", "0000", "--store", url, "--json"))
    assert [row["round"] for row in shown["rounds"]] == [1, 2]
    assert {site["site"]: site["late"] for site in shown["sites"]} == {"a": 0, "b": 1}


def test_a_removed_simulation_is_gone_with_its_ledgers_and_a_deployments_receipts_stay(url):
    assert "its folder is still there" in call("rm", "run-0", "run-1", "--store", url, "--yes")
    store = open_store(url)
    with store.reading() as connection:
        assert read_runs(connection) == []
        assert {(row.kind, row.site) for row in read_privacy(connection, patience_s=0.0)} == {
            ("deployment", "a"), ("deployment", "b"),
        }  # fmt: skip
    store.close()


def test_a_run_that_is_at_work_is_not_removed_and_without_a_yes_nothing_is(url):
    store = open_store(url)
    with store.writing() as connection:
        key = begin_run(connection, facts("2" * 32, name="busy"), at=3000.0, host="elsewhere")
        set_run(connection, key, heard_at=10.0**12)
    with pytest.raises(SettingsError, match="busy is running; stop it before it is removed"):
        call("rm", "busy", "--store", url, "--yes")
    assert CliRunner().invoke(app, ["rm", "run-0", "--store", url], input="n\n").exit_code == 1
    with store.reading() as connection:
        assert len(read_runs(connection)) == 3
    store.close()


def everything(url: str):
    """What a rebuilt store must agree in: all but times."""
    store = open_store(url)
    with store.reading() as connection:
        run = find_run(connection, "run")
        rounds = [(row.round, row.score, row.seconds, row.epsilon_max) for row in read_rounds(connection, run)]
        sites = [(row.site, row.node, row.trained, row.bytes_down) for row in read_run_sites(connection, run)]
        ledgers = read_privacy(connection, patience_s=0.0)
        spent = sorted((row.site, row.epsilon, row.receipts, row.key) for row in ledgers)
        sums = (run.rounds, run.state, run.dense_up, run.epsilon_max, run.strategy, run.total_rounds)
        cells = read_client_rounds(connection, run)
    store.close()
    return rounds, sites, spent, sums, cells


def test_a_lost_store_is_rebuilt_from_the_runs_folders(recipe, tmp_path):
    simulate(
        prepare(recipe("privacy.noise_multiplier=5", "rounds.count=2")), tmp_path / "runs/run",
        watch=lambda event: None, store=str(tmp_path / "runs/fedlora.db"),
    )  # fmt: skip
    assert "run: 2 of 2 rounds were new" in call("import", tmp_path / "runs", "--store", tmp_path / "rebuilt.db")
    rebuilt = everything(str(tmp_path / "rebuilt.db"))
    assert rebuilt == everything(str(tmp_path / "runs/fedlora.db"))
    assert "run: 0 of 2 rounds were new" in call("import", tmp_path / "runs/run", "--store", tmp_path / "rebuilt.db")
    assert everything(str(tmp_path / "rebuilt.db")) == rebuilt


def test_what_cannot_be_imported_is_said(recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"contains no run \(no checkpoint\.safetensors in it or its subfolders\)"):
        call("import", tmp_path / "empty", "--store", tmp_path / "x.db")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/checkpoint.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(SettingsError, match=r"bad/checkpoint\.safetensors cannot be read .*nothing was imported from"):
        call("import", tmp_path / "bad", "--store", tmp_path / "x.db")
    simulate(prepare(recipe("rounds.count=1")), tmp_path / "run", watch=lambda event: None)
    rounds = tmp_path / "run/rounds.jsonl"
    rounds.write_text(rounds.read_text().replace('"round"', '"rnd"'))
    with pytest.raises(SettingsError, match=r"line 1 of .*rounds\.jsonl is damaged \(TypeError\); restore the file"):
        call("import", tmp_path / "run", "--store", tmp_path / "x.db")


def test_where_there_is_nothing_to_look_at_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDLORA_STORE", raising=False)
    with pytest.raises(SettingsError, match=r"there is no store at runs/fedlora\.db yet; start a run"):
        call("list")
    monkeypatch.setenv("FEDLORA_STORE", "none")
    with pytest.raises(SettingsError, match="FEDLORA_STORE=none: the store is turned off"):
        call("list")


def test_an_export_to_something_unknown_names_what_there_is(url, tmp_path):
    with pytest.raises(SettingsError, match="'excel': choose one of tensorboard, mlflow"):
        call("export", "run-0", "--to", "excel", "--out", tmp_path, "--store", url)


def test_tensorboard_reads_what_was_exported(url, tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra `tensorboard` is not installed"
    )
    call("export", "run-0", "--to", "tensorboard", "--out", tmp_path / "out", "--store", url)
    (folder,) = Path(tmp_path / "out").iterdir()
    read = accumulators.EventAccumulator(str(folder)).Reload()
    assert {point.step: point.value for point in read.Scalars("accuracy")} == pytest.approx({1: 0.6, 2: 0.7})
    assert [point.wall_time for point in read.Scalars("bytes_up")] == [1010.0, 1020.0]


def test_mlflow_reads_what_was_exported(url, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    call("export", "run-0", "--to", "mlflow", "--out", tmp_path / "out", "--store", url)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out/mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("fedlora").experiment_id])
    points = client.get_metric_history(found.info.run_id, "accuracy")
    assert {point.step: point.value for point in points} == pytest.approx({1: 0.6, 2: 0.7})


@pytest.mark.parametrize("to", ["tensorboard", "mlflow"])
def test_an_extra_that_is_not_installed_is_named(url, tmp_path, monkeypatch, to):
    monkeypatch.setitem(__import__("sys").modules, {"tensorboard": "torch.utils.tensorboard"}.get(to, to), None)
    with pytest.raises(SettingsError, match=rf"install it with: pip install 'fedlora\[{to}\]'"):
        call("export", "run-0", "--to", to, "--out", tmp_path, "--store", url)

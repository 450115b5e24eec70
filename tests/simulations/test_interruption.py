"""Ctrl-C, kill and a second Ctrl-C: a sentence with the command that goes on, and what there is in the folder."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlora.plain_yaml import yaml_text
from fedlora.settings import SettingsError
from simulations.comparing.finished import finished, is_finished
from tests.federations import save_messages, save_tiny_model, tiny_recipe

pytestmark = pytest.mark.slow

MANY = 4000


@pytest.fixture
def running(tmp_path):
    """`fedlora simulate` of a run that nobody would wait for, once its second round is complete."""
    recipe = tiny_recipe(
        save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv"), f"rounds.count={MANY}",
        "rounds.evaluate_every=1",
    )  # fmt: skip
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(yaml_text(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "fedlora", "simulate", str(path), "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's are ignored
        env={**os.environ, "FEDLORA_STORE": str(tmp_path / "store.db")},
    )  # fmt: skip
    give_up = time.monotonic() + 240
    while not (out / "rounds.jsonl").exists() or (out / "rounds.jsonl").read_text().count("\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)
    yield process, out, tmp_path / "store.db"
    process.kill()
    process.communicate()


def rounds_in(folder: Path) -> int:
    return (folder / "rounds.jsonl").read_text().count("\n")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_one_signal_leaves_a_partial_result_and_the_way_to_go_on(running, number):
    process, out, store = running
    process.send_signal(number)
    said = process.communicate(timeout=240)[1]
    done = rounds_in(out)
    assert process.returncode == 130
    assert f"stopped after round {done} of {MANY}" in said
    assert f"--out {out} --resume" in said
    assert "Traceback" not in said
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["rounds"]) == ("stopped", done)
    assert summary["majority"] > 0
    assert (out / "curves.png").stat().st_size > 1000
    assert (out / "adapter" / "adapter_config.json").exists()
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT state, why FROM runs").fetchall() == [("stopped", "stopped at the terminal")]
    assert not is_finished(out)
    with pytest.raises(SettingsError, match=f"was stopped after round {done}; --resume it"):
        finished(out)


def test_a_second_ctrl_c_ends_at_once_and_still_in_a_sentence(running):
    process, _, _ = running
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert "To continue:" in said
    assert "--resume" in said
    assert "Traceback" not in said

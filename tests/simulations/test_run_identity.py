"""A run goes on only with what it was begun with; a run that was moved goes on to the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlora.models.loaded_model import loaded_model
from server.record.checkpoint import CheckpointError
from server.record.records import Event, RoundFinished
from server.run_identity import FILE
from tests.federations import run, save_tiny_model


@pytest.fixture
def begun(recipe, messages, tiny_model, tmp_path):
    """A run of one round on copies of data and model; `on(...)` resumes it for a second."""
    source, model, out = tmp_path / "rows.csv", tmp_path / "model", tmp_path / "run"
    shutil.copy(messages, source)
    shutil.copytree(tiny_model, model)
    own = (f"data.source={source}", f"model.id={model}")
    run(recipe(*own, "rounds.count=1"), out)

    def on(*overrides: str, watch=lambda event: None):
        loaded_model.cache_clear()
        return run(recipe(*own, "rounds.count=2", *overrides), out, resume=True, watch=watch)

    return on


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(begun, folder: Path, message: str, *overrides: str) -> None:
    before = everything(folder)
    with pytest.raises(CheckpointError, match=message):
        begun(*overrides)
    assert everything(folder) == before


def test_renamed_classes_are_refused(begun, tmp_path):
    change(tmp_path / "rows.csv", ",bad,", ",worse,")
    refused(begun, tmp_path / "run", "its classes are bad, good, in this order, but now they are good, worse")


def test_the_same_classes_in_another_order_are_refused(begun, tmp_path):
    refused(begun, tmp_path / "run", r"data\.labels differ", "data.labels=[good, bad]")


def test_one_text_of_one_client_is_other_data(begun, tmp_path):
    line = next(line for line in (tmp_path / "rows.csv").read_text().splitlines() if line.endswith(",red"))
    change(tmp_path / "rows.csv", line, line.replace(",", " bag,", 1))
    refused(begun, tmp_path / "run", r"'(client red|the test set)'.* has other examples")


def test_clients_that_come_and_go_are_named(begun, tmp_path):
    change(tmp_path / "rows.csv", ",red\n", ",crimson\n")
    refused(begun, tmp_path / "run", "'client red' had examples and is missing; 'client crimson' is new")


def test_other_weights_in_the_same_folder_are_refused(begun, tmp_path):
    file = tmp_path / "model" / "model.safetensors"
    save_file({k: torch.randn_like(v) if v.is_floating_point() else v for k, v in load_file(file).items()}, file,
              metadata={"format": "pt"})  # fmt: skip
    refused(begun, tmp_path / "run", "its base model has the fingerprint [0-9a-f]{32}, but the loaded one has")


def test_another_recipe_is_named_by_its_setting_and_not_by_what_follows_from_it(begun, tmp_path):
    refused(begun, tmp_path / "run", r"another recipe; data\.held_out differ", "data.held_out=19")


def test_a_run_that_was_moved_goes_on_to_the_same_bits(recipe, begun, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / "rows.csv", moved / "table.csv")
    shutil.move(tmp_path / "model", moved / "base")
    own = (f"data.source={moved / 'table.csv'}", f"model.id={moved / 'base'}")
    begun(*own)
    run(recipe(*own, "rounds.count=2"), tmp_path / "whole")
    ends = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("run", "whole")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_from_before_is_bound_by_its_first_resume_and_its_paths_are_compared(begun, tmp_path):
    (tmp_path / "run" / FILE).unlink()
    shutil.copy(tmp_path / "rows.csv", tmp_path / "copy.csv")
    refused(begun, tmp_path / "run", r"data\.source differ", f"data.source={tmp_path / 'copy.csv'}")
    begun()
    assert json.loads((tmp_path / "run" / FILE).read_text())["classes"] == ["bad", "good"]


def test_a_damaged_binding_is_said(begun, tmp_path):
    (tmp_path / "run" / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"made_of\.json is damaged .*restore it from a backup"):
        begun()


@pytest.mark.parametrize("mode", ["alone", "pooled"])
def test_references_are_bound_too(recipe, tmp_path, mode):
    run(recipe(f"mode={mode}", "rounds.count=1"), tmp_path / "run")
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="its base model has the fingerprint"):
        run(recipe(f"mode={mode}", "rounds.count=2", f"model.id={other}"), tmp_path / "run", resume=True)


def test_a_moved_run_that_is_stopped_before_its_first_new_round_still_says_how_it_stands(begun, tmp_path):
    moved = tmp_path / "elsewhere.csv"
    shutil.copy(tmp_path / "rows.csv", moved)

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun(f"data.source={moved}", watch=stop)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["state"], summary["rounds"]) == ("stopped", 1)


def test_a_client_by_itself_that_was_stopped_leaves_no_summary_of_its_own(recipe, tmp_path):
    """Nothing would replace it: a run of mode `alone` has one summary, of all clients."""

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe("mode=alone"), tmp_path / "run", watch=stop)
    assert list((tmp_path / "run").rglob("checkpoint.safetensors"))
    assert not list((tmp_path / "run").rglob("summary.json"))

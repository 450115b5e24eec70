"""The main job on a tiny federation: files, adapter, determinism, resume, references."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from fedlora.config import ComputeSettings
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from server.record import checkpoint
from server.record.checkpoint import CheckpointError
from server.record.journal import Journal
from server.record.lines import line_of, read_records
from server.record.records import RoundFinished
from server.record.summary import summary_of
from server.replies.quorum import QuorumError
from server.runs.submissions import completed_rounds
from server.trial import Trial
from simulations.commands import simulate as terminal
from simulations.comparing.finished import finished
from simulations.comparing.rows import all_rows
from simulations.local_grid import LocalGrid
from simulations.run import prepare, simulate
from simulations.terminal.interruption import how_to_go_on
from simulations.terminal.pictures import draw_curves
from strategies.registry import STRATEGIES, build
from tests.federations import run
from tests.strategies.examples import kind_of

SUMMARY_KEYS = {
    "strategy", "rounds", "clients", "accuracy", "loss", "accuracy_by_client", "bytes_up", "bytes_down",
    "aggregation_error_max", "seconds", "seed", "versions", "adapter_dir",
}  # fmt: skip


def rounds_without_timings(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
        for client in line["clients"]:
            del client["seconds"]
    return lines


def adapter_bytes(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "adapter/adapter_model.safetensors").read_bytes(), (
        folder / "adapter/head.safetensors"
    ).read_bytes()


def test_a_run_leaves_every_file_and_every_key(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.run.draw_curves", draw_curves)  # as it ships
    summary = run(recipe(), tmp_path / "run")
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {
        "summary.json", "rounds.jsonl", "config.yaml", "curves.png", "adapter", "checkpoint.safetensors",
    }  # fmt: skip
    assert summary.keys() >= SUMMARY_KEYS
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
    assert (summary["rounds"], summary["clients"]) == (3, 4)
    assert set(summary["accuracy_by_client"]) == {"blue", "green", "red", "white"}


def test_a_round_that_was_cut_off_between_its_line_and_its_checkpoint_is_in_no_part_of_a_partial_result(
    recipe, tmp_path, monkeypatch
):
    """An interrupt there left a summary of one round beside a sentence, a picture and a verdict of two."""

    def cut_off(self: Journal) -> None:
        """The line is written, the checkpoint is not."""
        if completed_rounds(self.folder) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "_keep_previous", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["state"], summary["rounds"], completed_rounds(tmp_path / "run")) == ("stopped", 1, 1)
    assert "stopped after round 1 of 3" in str(how_to_go_on(tmp_path / "run", rounds=3))


def test_a_coordinators_summary_says_what_the_simulations_does(recipe, tmp_path):
    asked = recipe("privacy.noise_multiplier=1", "rounds.evaluate_every=2")
    simulated = run(asked, tmp_path / "run")
    progress = checkpoint.read(tmp_path / "run/checkpoint.safetensors", recipe=recorded(asked))
    deployed = summary_of(asked, progress, tmp_path / "run")
    of_its_test_set = {"majority", "test_examples", "standard_error", "standing", "verdict"}
    assert simulated.keys() - deployed.keys() == {"accuracy_by_client", "state", *of_its_test_set}
    assert {key: value for key, value in deployed.items() if key != "seconds"} == {
        key: simulated[key] for key in deployed if key != "seconds"
    }


def test_a_run_that_was_never_evaluated_is_summed_up_and_not_compared(recipe, tmp_path):
    run(recipe(), tmp_path / "run")
    lines = [line_of(replace(record, evaluation=None)) for record in read_records(tmp_path / "run")]
    (tmp_path / "run/rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    progress = checkpoint.read(tmp_path / "run/checkpoint.safetensors", recipe=recorded(recipe()))
    summary = summary_of(recipe(), progress, tmp_path / "run")
    assert (summary["accuracy"], summary["rounds"]) == (None, 3)
    (tmp_path / "run/summary.json").write_text(json.dumps(summary))
    with pytest.raises(SettingsError, match="was never evaluated, so it cannot be compared"):
        all_rows([finished(tmp_path / "run")])


@pytest.mark.parametrize("strategy", [name for name in sorted(STRATEGIES) if not build(name, {}).traits.keeps])
def test_every_strategy_learns_and_its_adapter_loads_with_plain_peft(recipe, tmp_path, strategy):
    settings = recipe(f"strategy.name={strategy}", "rounds.count=6", "train.steps=20", *kind_for(strategy))
    summary = run(settings, tmp_path / "run")
    assert summary["loss"] < 0.62  # guessing costs ln 2 = 0.693
    assert plain_peft_accuracy(tmp_path / "run/adapter", settings) == pytest.approx(summary["accuracy"], abs=1e-9)


def kind_for(strategy: str) -> tuple[str, ...]:
    core = ("adapter.kind=lora_xs", "adapter.r=8", "adapter.alpha=8")
    return core if kind_of(build(strategy, {})) == "lora_xs" else ()


def test_personal_adapters_load_with_plain_peft_and_are_what_the_sites_measure_next(recipe, tmp_path):
    settings = recipe("strategy.name=fedsa", "rounds.count=8", "train.steps=15", "data.test_fraction=0.3")
    summary = run(settings, tmp_path / "run")
    assert summary["adapter_dir"].endswith("adapters")
    first, *_, last = rounds_without_timings(tmp_path / "run")
    for before, after in zip(first["clients"], last["clients"], strict=True):
        assert after["train_loss"] < 0.8 * before["train_loss"]
    assert summary["aggregation_error_max"] is None
    clients = prepare(settings).data.clients
    exported = {
        name: plain_peft_accuracy(tmp_path / "run/adapters" / name, settings, part.test)
        for name, part in clients.items()
    }
    more = settings.model_copy(update={"rounds": settings.rounds.model_copy(update={"count": 9})})
    recipe_file = tmp_path / "run/config.yaml"
    recipe_file.write_text(recipe_file.read_text().replace("count: 8", "count: 9"))
    assert run(more, tmp_path / "run", resume=True)["accuracy_by_client"] == pytest.approx(exported)


def test_under_privacy_a_strategy_without_a_global_model_needs_the_clients_metrics(recipe, tmp_path):
    with pytest.raises(SettingsError, match="report_metrics=true"):
        run(recipe("strategy.name=fedsa", "privacy.epsilon=3"), tmp_path / "run")


def plain_peft_accuracy(folder: Path, settings, examples=None) -> float:
    """As the exported README.md says, without fedlora's model; on the shared test set, or on `examples`."""
    examples = examples or prepare(settings).data.held_out
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(settings.model.id), str(folder)).eval()
    head = load_file(folder / "head.safetensors")
    right = 0
    with torch.no_grad():
        for batch in examples.evaluation_batches():
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            logits = ((hidden * mask).sum(1) / mask.sum(1)) @ head["weight"].T + head["bias"]
            right += int((logits.argmax(-1) == batch["labels"]).sum())
    return right / len(examples)


def test_the_same_seed_gives_the_same_rounds_whatever_the_global_random_state(recipe, tmp_path):
    torch.manual_seed(1)
    run(recipe(), tmp_path / "first")
    torch.manual_seed(2)
    run(recipe(), tmp_path / "second")
    run(recipe("seed=1"), tmp_path / "other")
    assert rounds_without_timings(tmp_path / "first") == rounds_without_timings(tmp_path / "second")
    assert adapter_bytes(tmp_path / "first") == adapter_bytes(tmp_path / "second")
    assert adapter_bytes(tmp_path / "first") != adapter_bytes(tmp_path / "other")


class KilledError(Exception):
    pass


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_run_that_was_killed_and_resumed_ends_in_the_same_bits(recipe, tmp_path, strategy):
    settings = recipe(f"strategy.name={strategy}", "rounds.fraction=0.5", "adapter.dropout=0.1", *kind_for(strategy))
    run(settings, tmp_path / "whole")

    def die(event):
        if isinstance(event, RoundFinished) and event.record.round == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run(settings, tmp_path / "killed", watch=die)
    run(settings, tmp_path / "killed", resume=True)
    assert adapter_bytes(tmp_path / "killed") == adapter_bytes(tmp_path / "whole")
    assert rounds_without_timings(tmp_path / "killed") == rounds_without_timings(tmp_path / "whole")


def test_a_line_that_was_written_before_its_checkpoint_is_not_doubled_by_a_resume(recipe, tmp_path):
    run(recipe("rounds.count=2"), tmp_path / "run")
    with (tmp_path / "run/rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "half": tr')
    run(recipe(), tmp_path / "run", resume=True)
    assert [line["round"] for line in rounds_without_timings(tmp_path / "run")] == [1, 2, 3]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def one_bit_turned(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # inside a tensor: the file is still valid safetensors
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncated, one_bit_turned])
def test_a_damaged_checkpoint_costs_its_round_and_is_set_aside(recipe, tmp_path, spoil):
    run(recipe("rounds.count=4"), tmp_path / "whole")
    run(recipe("rounds.count=3"), tmp_path / "run")
    spoil(tmp_path / "run/checkpoint.safetensors")
    damaged = (tmp_path / "run/checkpoint.safetensors").read_bytes()
    run(recipe("rounds.count=4"), tmp_path / "run", resume=True)
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(tmp_path / "whole")
    assert rounds_without_timings(tmp_path / "run") == rounds_without_timings(tmp_path / "whole")
    assert (tmp_path / "run/checkpoint.damaged.safetensors").read_bytes() == damaged


def test_two_damaged_checkpoints_are_refused_and_left_alone(recipe, tmp_path):
    run(recipe(), tmp_path / "run")
    paths = [tmp_path / "run" / name for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors")]
    for path in paths:
        one_bit_turned(path)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(CheckpointError, match=r"is damaged.*Restore it"):
        run(recipe("rounds.count=4"), tmp_path / "run", resume=True)
    assert [path.read_bytes() for path in paths] == before


def test_a_checkpoint_of_another_recipe_is_refused_by_name(recipe, tmp_path):
    run(recipe("rounds.count=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"train\.lr"):
        run(recipe("train.lr=0.1"), tmp_path / "run", resume=True)


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe, tmp_path):
    run(recipe("rounds.count=1"), tmp_path / "run")
    with pytest.raises(SettingsError, match="already contains a run"):
        run(recipe(), tmp_path / "run")


def test_at_a_terminal_it_is_refused_before_anything_is_read(recipe, tmp_path, monkeypatch):
    run(recipe("rounds.count=1"), tmp_path / "run")
    monkeypatch.setattr(terminal, "prepare", None)
    with pytest.raises(SettingsError, match="already contains a run"):
        terminal.run_on_screen(recipe(), tmp_path / "run", terminal.Shown(ComputeSettings()), trial=Trial())


def test_resuming_nothing_is_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match="contains no checkpoint"):
        run(recipe(), tmp_path / "run", resume=True)


def test_a_folder_that_cannot_be_written_is_said_before_training(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write to the output folder .*Choose another with --out"):
        run(recipe(), tmp_path / "file/run")


def test_references_alone_and_pooled(recipe, tmp_path):
    alone = run(recipe("mode=alone", "rounds.count=2"), tmp_path / "alone")
    pooled = run(recipe("mode=pooled", "rounds.count=2"), tmp_path / "pooled")
    assert (alone["clients"], pooled["clients"]) == (4, 1)
    assert set(alone["accuracy_by_client"]) == {"blue", "green", "red", "white"}
    assert alone["aggregation_error_max"] < 1e-6


def test_clients_with_another_base_model_refuse(recipe, tmp_path):
    settings = recipe()
    simulation = prepare(settings)
    stranger = replace(simulation.loaded_model.base, fingerprint="0" * 32)
    elsewhere = copy.copy(simulation.loaded_model)
    elsewhere.base = stranger
    with pytest.raises(QuorumError, match=r"4 refused \(wrong-base-model\)"):
        simulate(replace(simulation, loaded_model=elsewhere), tmp_path / "run", watch=lambda event: None)


def test_bytes_are_what_flower_puts_on_the_wire_but_for_its_own_headers(recipe, tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr("simulations.run.LocalGrid", lambda *a, **k: grids.append(LocalGrid(*a, **k)) or grids[-1])
    summary = run(recipe(), tmp_path / "run")
    (grid,) = grids
    messages = 3 * 4
    for ours, flower in ((summary["bytes_up"], grid.bytes_up), (summary["bytes_down"], grid.bytes_down)):
        assert 0 < flower - ours < 1500 * messages


@pytest.fixture
def ray_cluster(monkeypatch):
    """A Ray head of its own processes, as on another machine, and its address where Ray looks for it."""
    pytest.importorskip("ray", reason="the extra `simulation` is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_same_apps_on_a_ray_cluster_end_in_the_same_bits(recipe, tmp_path, ray_cluster):
    run(recipe("rounds.count=2"), tmp_path / "local")
    settings = recipe(
        "rounds.count=2", "rounds.min_clients=4", "rounds.wait_s=120", "rounds.deadline_s=240", "rounds.grace_s=240"
    )
    simulate(prepare(settings), tmp_path / "ray", watch=lambda event: None, engine="ray")
    assert adapter_bytes(tmp_path / "ray") == adapter_bytes(tmp_path / "local")


@pytest.mark.parametrize(
    "wire", [("wire.codec=int4",), ("wire.codec=sign",), ("wire.codec=int4", "wire.density=0.25"), ("wire.codec=auto",),
             ("wire.download_codec=fp16",)]
)  # fmt: skip
def test_a_compressed_run_learns_sends_less_and_resumes_to_the_same_bits(recipe, tmp_path, wire):
    settings = recipe("rounds.count=6", "train.steps=20", "strategy.name=fedit", *wire)
    plain = run(recipe("rounds.count=6", "train.steps=20", "strategy.name=fedit"), tmp_path / "plain")
    small = run(settings, tmp_path / "small")
    assert small["loss"] < 0.62  # guessing costs ln 2 = 0.693
    assert sum(small["packing"].values()) == 6 * small["clients"]
    assert small["bytes_up"] + small["bytes_down"] < plain["bytes_up"] + plain["bytes_down"]

    def die(event):
        if isinstance(event, RoundFinished) and event.record.round == 3:
            raise KilledError

    with pytest.raises(KilledError):
        run(settings, tmp_path / "killed", watch=die)
    run(settings, tmp_path / "killed", resume=True)
    assert adapter_bytes(tmp_path / "killed") == adapter_bytes(tmp_path / "small")

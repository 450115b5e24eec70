"""Runs whose downloads are changes: they learn, send less, survive absence, lies and kills, to the same bits."""

from __future__ import annotations

import pytest

from fedlora.config import load
from fedlora.protocol.task import JSON_KEY, TASK_RECORD, Task
from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from server.record.checkpoint import read
from server.record.records import ClientAnswered, RoundFinished
from simulations.local_grid import Fault
from strategies.registry import named
from tests.federations import NODES, run
from tests.simulations.test_run import KilledError, adapter_bytes, kind_for, rounds_without_timings

CHANGES = ("wire.download=changes",)
BOTH_WAYS = ("wire.codec=int4", "wire.density=0.25", *CHANGES, "wire.download_codec=int4", "wire.download_density=0.25")


class Spy:
    """Looks at every task on its way, and drops those of one node in one round."""

    def __init__(self, drop: tuple[int, int] | None = None) -> None:
        self.changes: dict[int, list[bool]] = {}
        self._drop = drop

    def __call__(self, node, message):
        task = Task.model_validate_json(message.content.config_records[TASK_RECORD][JSON_KEY])
        self.changes.setdefault(node, []).append(task.changes)
        return Fault("drop") if (node, task.round) == self._drop else None


@pytest.mark.parametrize("strategy", ["fedsa", "fedsb", "fedsvd", "rolora"])
def test_without_loss_a_run_ends_where_whole_states_lead_it(recipe, tmp_path, strategy):
    settings = (f"strategy.name={strategy}", "rounds.count=3", *kind_for(strategy))
    whole = run(recipe(*settings), tmp_path / "whole")
    changes = run(recipe(*settings, *CHANGES), tmp_path / "changes")
    assert changes["accuracy"] == pytest.approx(whole["accuracy"], abs=0.05)
    assert changes["loss"] == pytest.approx(whole["loss"], abs=0.01)


@pytest.mark.parametrize("strategy", ["fedsvd", "fedit"])
def test_both_ways_sparse_a_run_learns_sends_less_and_resumes_to_the_same_bits(recipe, tmp_path, strategy):
    asked = ("rounds.count=8", "train.steps=20", "rounds.fraction=0.5", "adapter.r=8")
    settings = recipe(f"strategy.name={strategy}", *asked, *BOTH_WAYS)
    run(settings, tmp_path / "small")
    lines = rounds_without_timings(tmp_path / "small")[-2:]
    last = [client["train_loss"] for line in lines for client in line["clients"]]
    assert sum(last) / len(last) < 0.65  # guessing costs ln 2 = 0.693

    def die(event):
        """In the middle of a round: its first client has answered, and keeps its new residual and state."""
        if isinstance(event, ClientAnswered) and event.round == 5:
            raise KilledError

    with pytest.raises(KilledError):
        run(settings, tmp_path / "killed", watch=die)
    run(settings, tmp_path / "killed", resume=True)
    assert adapter_bytes(tmp_path / "killed") == adapter_bytes(tmp_path / "small")
    assert rounds_without_timings(tmp_path / "killed") == rounds_without_timings(tmp_path / "small")


def test_the_flasc_recipe_starts_where_a_dense_run_does_and_sends_a_fraction_both_ways(recipe, tmp_path):
    """From round 2 on; on so small an adapter half of what is left of a download is the task beside it."""
    sparse = load("flasc").wire
    assert sparse.density == sparse.download_density == 0.25
    assert sparse.download == "changes"
    assert sparse.error_feedback
    settings = recipe("strategy.name=fedit", "rounds.count=6", "train.steps=6", "adapter.r=8")
    summaries = {}
    for name, given in (("dense", settings), ("sparse", settings.model_copy(update={"wire": sparse}))):
        summaries[name] = run(given, tmp_path / name)
    lines = {name: rounds_without_timings(tmp_path / name) for name in summaries}
    for dense, thin in zip(lines["dense"][0]["clients"], lines["sparse"][0]["clients"], strict=True):
        assert thin["received"] == dense["received"]  # the same state, measured on the same examples
        assert thin["bytes_down"] == pytest.approx(dense["bytes_down"], rel=0.05)
    for number in range(1, 6):
        for dense, thin in zip(lines["dense"][number]["clients"], lines["sparse"][number]["clients"], strict=True):
            assert thin["bytes_up"] < dense["bytes_up"] / 3
            assert thin["bytes_down"] < dense["bytes_down"] / 2.5
    assert all(0 < line["download_left_out"] < 1 for line in lines["sparse"][1:])
    assert summaries["sparse"]["accuracy"] > summaries["dense"]["accuracy"] - 0.15


def test_newcomers_get_the_whole_state_and_everybody_else_what_they_have_missed(recipe, tmp_path):
    spy = Spy()
    run(recipe("rounds.count=5", "rounds.fraction=0.5", *BOTH_WAYS), tmp_path / "run", faults=spy)
    assert len(spy.changes) == 4
    assert all(sent == [False] + [True] * (len(sent) - 1) for sent in spy.changes.values())
    assert sum(map(len, spy.changes.values())) == 10
    assert all(line["download_left_out"] < 1 for line in rounds_without_timings(tmp_path / "run"))


def test_a_client_that_did_not_answer_gets_the_whole_state_again(recipe, tmp_path):
    spy = Spy(drop=(NODES["green"], 2))
    run(recipe("rounds.count=4", *CHANGES), tmp_path / "run", faults=spy)
    assert spy.changes[NODES["green"]] == [False, True, False, True]
    assert spy.changes[NODES["red"]] == [False, True, True, True]


def test_a_site_whose_copy_is_damaged_fails_once_and_is_then_sent_all(recipe, tmp_path):
    def spoil(event):
        if isinstance(event, RoundFinished) and event.record.round == 2:
            (copy,) = (tmp_path / "run/sites/red/state").iterdir()
            copy.write_bytes(b"torn")

    run(recipe("rounds.count=4", *CHANGES), tmp_path / "run", watch=spoil)
    reds = [line["clients"][2] for line in rounds_without_timings(tmp_path / "run")]
    assert [(red["outcome"], red["code"]) for red in reds] == [
        ("trained", None), ("trained", None), ("failed", "wrong-base-state"), ("trained", None),
    ]  # fmt: skip


def test_the_coordinator_keeps_no_more_links_than_a_whole_state_has_bytes(recipe, tmp_path):
    settings = recipe("rounds.count=8", *CHANGES)
    run(settings, tmp_path / "run")
    downlink = read(tmp_path / "run/checkpoint.safetensors", recipe=recorded(settings)).downlink
    whole = sum(4 * tensor.numel() for tensor in downlink.adapter.tensors().values())
    assert downlink.round == 8
    assert 1 <= downlink.since < 8
    assert 0 < sum(len(link) for _, link in downlink.links) <= whole


@pytest.mark.parametrize("strategy", named(moves_base=True))
def test_strategies_that_move_the_base_are_refused(recipe, tmp_path, strategy):
    with pytest.raises(SettingsError, match=r"moves the base.*Use wire\.download=whole"):
        run(recipe(f"strategy.name={strategy}", *CHANGES), tmp_path / "run")


def test_unequal_devices_are_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"one state for all clients.*Use wire\.download=whole"):
        run(recipe("strategy.name=hetlora", "devices.others.r=1", *CHANGES), tmp_path / "run")

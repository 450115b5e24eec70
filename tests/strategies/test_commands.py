"""`fedlora strategies`, `fedlora probe` and `fedlora wire`, as a person types them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fedlora.cli import load_command
from strategies.registry import STRATEGIES
from tests.federations import run


def invoke(*words: str) -> str:
    result = CliRunner().invoke(load_command(words[0]), list(words[1:]))
    assert result.exit_code == 0, result.output
    return result.output


def test_every_strategy_is_described(monkeypatch):
    rows = {row["strategy"]: row for row in json.loads(invoke("strategies", "--json"))}
    assert rows.keys() == STRATEGIES.keys()
    assert rows["fedit"]["up"] == rows["fedit"]["down"] == 16 * (4096 + 4096)
    assert rows["ffa"]["up"] == 16 * 4096
    assert rows["fedsb"]["up"] == 16 * 16
    assert rows["fedex"]["down"] == 10 * rows["fedex"]["up"]
    monkeypatch.setenv("COLUMNS", "200")
    assert "fedsvd" in invoke("strategies")


def test_dense_is_sent_once_the_factors_would_be_longer():
    rows = {row["strategy"]: row for row in json.loads(invoke("strategies", "--json", "--clients", "1000"))}
    assert rows["fedex"]["down"] == 16 * (4096 + 4096) + 4096 * 4096


def test_the_probe_prints_a_verdict():
    (row,) = json.loads(invoke("probe", "--adapter", "lora", "--json"))
    assert (row["exact"], sorted(row["exact_when_frozen"])) == (False, ["lora_A", "lora_B"])


@pytest.mark.parametrize("strategy", ["fedit", "ffa"])
def test_planned_bytes_are_those_of_a_run(recipe, tmp_path, strategy):
    from simulations.wire_commands import planned_bytes

    settings = recipe(f"strategy.name={strategy}", "rounds.count=1", "wire.codec=int4")
    planned = planned_bytes(settings, clients=4)
    summary = run(settings, tmp_path / "run")
    assert 0 < summary["bytes_up"] / 4 - planned["bytes_up"] < 500  # the report
    assert 0 < summary["bytes_down"] / 4 - planned["bytes_down"] < 2500


def test_a_message_is_inspected_without_being_trusted(tmp_path):
    from tests.wire.test_message import HEADER, encode, tensors

    path = tmp_path / "update.bin"
    path.write_bytes(encode(tensors(), HEADER, codec="int4", density=0.25))
    shown = invoke("wire", "inspect", str(path))
    assert all(word in shown for word in ("int4", "run-1", "ffa", "signature"))

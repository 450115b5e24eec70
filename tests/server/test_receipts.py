"""The coordinator remembers every site's ledger across runs: an older copy, or a new one, is found by its numbers."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import simulations.run as run_module
from fedlora.privacy.receipt import Receipt, ReceiptError, Signature
from server.coordinate import Coordination
from server.receipts import Held, clients_in, earlier, newest, require_continues
from tests.federations import run, save_messages, save_tiny_model, tiny_recipe


def receipt(sequence: int, **changes) -> Receipt:
    values = {
        "client": "red", "dataset": "default", "run": "r", "round": 1, "task": "t", "rate": 0.1,
        "noise_multiplier": 1.0, "clip": 1.0, "steps": 1, "delta": 1e-5, "epsilon_run": 1.0, "epsilon_lifetime": 1.0,
        "delta_lifetime": 1e-5, "epsilon_allowed": 8.0, "secure": True, "sequence": sequence, "digest": str(sequence),
    }  # fmt: skip
    return Receipt(**{**values, **changes})


def record(sequence: int, key: str = "key", **changes) -> dict:
    return {
        "receipt": receipt(sequence, **changes).model_dump(),
        "signature": {"public_key": key, "signature": "ab"},
    }


def test_the_highest_number_of_every_ledger_is_held():
    held = newest([record(3), record(1), record(9, dataset="scans"), {"receipt": None}, record(2, client="blue")])
    assert {ledger: kept.receipt.sequence for ledger, kept in held.items()} == {
        ("red", "default"): 3, ("red", "scans"): 9, ("blue", "default"): 2,
    }  # fmt: skip


def test_a_ledger_goes_on_with_its_key_and_its_numbers():
    held, signed = Held(receipt(5), "key"), Signature(public_key="key", signature="ab")
    require_continues(receipt(6), signed, held)
    require_continues(receipt(5), signed, held)  # a retried task: the same entry
    require_continues(receipt(1), signed, None)
    with pytest.raises(ReceiptError, match="went back from entry 5 to 4"):
        require_continues(receipt(4), signed, held)
    with pytest.raises(ReceiptError, match="went back from entry 5 to 5"):
        require_continues(receipt(5, digest="other"), signed, held)
    with pytest.raises(ReceiptError, match="signed with another key than before"):
        require_continues(receipt(6), Signature(public_key="new", signature="ab"), held)
    with pytest.raises(ReceiptError, match="signed with another key than before"):
        require_continues(receipt(6), None, held)


def test_earlier_runs_are_read_without_this_one_and_without_damage(tmp_path, caplog):
    for name, sequence in (("one", 4), ("two", 8), ("this", 99)):
        (tmp_path / name).mkdir()
        line = json.dumps({"clients": [record(sequence)]})
        (tmp_path / name / "rounds.jsonl").write_text(f"{line}\n{line[:20]}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rounds.jsonl").write_text("{}\n")
    (found,) = newest(earlier(tmp_path, than=tmp_path / "this")).values()
    assert (found.receipt.sequence, found.public_key) == (8, "key")
    assert "broken/rounds.jsonl is damaged" in caplog.text
    assert clients_in(tmp_path / "nowhere" / "rounds.jsonl") == []


@pytest.mark.parametrize(
    ("old", "code_in_round_2"), [("the state of round 1", None), ("no state at all", "bad-receipt")]
)
def test_a_site_that_went_back_between_two_runs_is_found(tmp_path, monkeypatch, old, code_in_round_2):
    """An older copy until its numbers have passed those that are held; a new key for good."""
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv")
    runs = tmp_path / "runs"
    monkeypatch.setattr(run_module, "Coordination", partial(Coordination, runs=runs))
    recipe = tiny_recipe(model, source, "privacy.noise_multiplier=2", "rounds.count=2")
    copy = tmp_path / "copy"

    def copy_after_round_1(event) -> None:
        if type(event).__name__ == "RoundFinished" and event.record.round == 1:
            shutil.copytree(runs / "one" / "sites" / "red", copy)

    run(recipe, runs / "one", watch=copy_after_round_1)
    shutil.copytree(runs / "one" / "sites", runs / "two" / "sites")
    shutil.rmtree(runs / "two" / "sites" / "red")
    if old == "the state of round 1":
        shutil.copytree(copy, runs / "two" / "sites" / "red")
    run(recipe, runs / "two")
    rounds = codes(runs / "two")
    assert [found.pop("red") for found in rounds] == ["bad-receipt", code_in_round_2]
    assert {code for found in rounds for code in found.values()} == {None}


def codes(folder: Path) -> list[dict[str, str | None]]:
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [{client["client"]: client["code"] for client in json.loads(line)["clients"]} for line in lines]

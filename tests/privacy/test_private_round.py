"""A private round at a site, through client.round.answer, and what the coordinator makes of its receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import client.round as round_module
import client.trainer as trainer_module
from client.round import answer
from fedlora.privacy.digest import task_digest
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.policy import SIMULATION, Policy
from fedlora.privacy.receipt import ReceiptError, require_receipt, verified
from fedlora.wire.message import Expected, Schema, decode, state_hash
from tests.privacy.rounds import Coordinator, coordinator, site
from tests.token_examples import token_ids


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Coordinator:
    return coordinator(tmp_path_factory.mktemp("model"))


def kinds(folder: Path) -> list[str]:
    return [entry.kind for entry in read_ledger(LedgerFiles(folder, "default"), public_key=None).entries]


def test_a_private_round_is_charged_answered_and_tells_nothing_else(server, tmp_path):
    report, blob = answer(*server.ask(1), site(tmp_path))
    assert report.outcome == "trained"
    assert blob
    assert kinds(tmp_path) == ["charge", "answer"]
    assert report.examples == 60, "the public size, here the size itself: 60 is on the ladder"
    assert (report.received, report.train_loss) == (None, None)
    receipt = verified(report.receipt)
    assert (receipt.client, receipt.run, receipt.round, receipt.secure) == ("a", "run-1", 1, True)
    assert receipt.epsilon_run > 0


def test_sixty_one_examples_are_reported_as_sixty(server, tmp_path):
    report, _ = answer(*server.ask(1), site(tmp_path, count=61))
    assert report.examples == 60


def test_a_retried_task_gets_the_same_bytes_for_one_charge(server, tmp_path):
    first = answer(*server.ask(1), site(tmp_path))
    again = answer(*server.ask(1), site(tmp_path))
    assert again[1] == first[1]
    assert again[0].receipt == first[0].receipt
    assert kinds(tmp_path) == ["charge", "answer"]


def test_the_charge_comes_before_the_first_example_is_read(server, tmp_path, monkeypatch):
    here = site(tmp_path)
    own, seen = {id(ids) for ids in token_ids(here.data.train)}, []
    real = type(here.data.train).batch

    def batch(self, indices, **options):
        if own & {id(ids) for ids in token_ids(self)}:  # and not what a rehearsal invents
            seen.append(kinds(tmp_path))
        return real(self, indices, **options)

    monkeypatch.setattr(type(here.data.train), "batch", batch)
    answer(*server.ask(1), here)
    assert seen
    assert all(found == ["charge"] for found in seen)


def test_metrics_leave_only_where_recipe_and_policy_both_say_so(server, tmp_path):
    asked = {"privacy": {"epsilon": 3.0, "report_metrics": True}}
    report, _ = answer(*server.ask(1, **asked), site(tmp_path / "open"))
    assert report.received is not None
    assert report.train_loss is not None
    report, blob = answer(*server.ask(1, **asked), site(tmp_path / "closed", policy=Policy()))
    assert (report.outcome, report.code, blob) == ("refused", "metrics-not-allowed", None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"privacy": {}}, "privacy-required"),
        ({"privacy": {"epsilon": 3.0, "insecure_seed": 1}}, "insecure-noise-not-allowed"),
        ({"strategy": "fedsb"}, "strategy-not-allowed"),
    ],
)
def test_a_refusal_is_an_answer_with_a_code_and_comes_before_the_model_is_loaded(
    server, tmp_path, monkeypatch, changes, code
):
    monkeypatch.setattr(round_module, "loaded_model", lambda *args: pytest.fail("the model was loaded"))
    here = site(tmp_path, policy=Policy(strategies=("ffa",)))
    report, blob = answer(*server.ask(1, **changes), here)
    assert (report.outcome, report.code, blob, report.receipt) == ("refused", code, None, None)
    assert kinds(tmp_path) == []


def test_a_damaged_ledger_stops_the_site(server, tmp_path):
    here = site(tmp_path)
    answer(*server.ask(1), here)
    LedgerFiles(tmp_path, "default").ledger.write_bytes(b"")
    report, blob = answer(*server.ask(2), here)
    assert (report.outcome, report.code, blob) == ("refused", "ledger-damaged", None)


def test_a_failed_training_stays_charged(server, tmp_path, monkeypatch):
    here = site(tmp_path)
    monkeypatch.setattr(trainer_module, "take_steps", lambda *given: 1 / 0)
    report, blob = answer(*server.ask(1, train={"batch_size": 60, "steps": 2}), here)
    assert (report.outcome, report.code, blob) == ("failed", "internal-error", None)
    assert kinds(tmp_path) == ["charge"]


def test_the_run_seed_does_not_reach_the_noise(server, tmp_path):
    """Two sites with the same data, seed and name, and one site twice: all updates differ."""
    blobs = {answer(*server.ask(1), site(tmp_path / folder))[1] for folder in ("x", "y")}
    torch.manual_seed(7)
    blobs.add(answer(*server.ask(1, run="other"), site(tmp_path / "x"))[1])
    assert len(blobs) == 3


def test_opacus_is_a_choice_of_engine(server, tmp_path):
    report, blob = answer(*server.ask(1, privacy={"epsilon": 3.0, "engine": "opacus"}), site(tmp_path))
    assert report.outcome == "trained"
    assert blob


def test_both_engines_give_the_same_update_for_the_same_noise(server, tmp_path):
    updates = []
    for engine in ("fedlora", "opacus"):
        asked, state = server.ask(1, privacy={"noise_multiplier": 1.0, "insecure_seed": 3, "engine": engine})
        here = site(tmp_path / engine)
        report, blob = answer(asked, state, here)
        assert report.outcome == "trained"
        schema = Schema.of(server.adapter.tensors(asked.trains))
        expected = Expected("update", asked.run, 1, state_hash(server.adapter.tensors()))
        updates.append(decode(blob, schema, expected).tensors)
    left, right = updates
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


def test_the_coordinator_takes_only_the_receipt_of_this_client_run_and_round(server, tmp_path):
    asked, state = server.ask(1)
    text = answer(asked, state, site(tmp_path))[0].receipt
    fits = {"client": "a", "run": "run-1", "round_number": 1, "task": task_digest(asked, state)}
    assert require_receipt(text, **fits).round == 1
    forged = json.loads(text)
    forged["receipt"]["epsilon_run"] = 0.0
    for bad, match in (
        (None, "sent no receipt"),
        ("{}", "cannot be verified"),
        ("[", "cannot be verified"),
        (json.dumps(forged), "cannot be verified"),
    ):
        with pytest.raises(ReceiptError, match=match):
            require_receipt(bad, **fits)
    for wrong in ({"client": "b"}, {"run": "run-2"}, {"round_number": 2}):
        with pytest.raises(ReceiptError, match="sent the receipt of a, run run-1, round 1"):
            require_receipt(text, **{**fits, **wrong})
    easier = asked.model_copy(update={"train": asked.train.model_copy(update={"steps": 1})})
    for other in (task_digest(easier, state), task_digest(asked, state + b"!")):
        with pytest.raises(ReceiptError, match="for a different task than the one it was sent"):
            require_receipt(text, **{**fits, "task": other})


def test_simulated_sites_allow_what_a_recipe_asks_and_others_do_not(server, tmp_path):
    assert answer(*server.ask(1, privacy={}), site(tmp_path / "s", policy=SIMULATION))[0].outcome == "trained"
    assert answer(*server.ask(1, privacy={}), site(tmp_path / "p", policy=Policy()))[0].code == "privacy-required"

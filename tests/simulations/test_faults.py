"""A bad, late, dead or lying client costs its own update, never the round; its failure is attributed and explained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from client.state.feedback import Feedback
from fedlora.protocol.task import BLOB_KEY, BLOB_RECORD, BLOB_STYPE, JSON_KEY, REPORT_RECORD, TASK_RECORD
from server.record.records import RoundFinished
from server.replies.arrivals import MissingClientsError
from server.replies.quorum import QuorumError
from simulations.local_grid import Fault
from simulations.run import prepare, simulate
from tests.federations import NODES, run
from tests.wire.test_message import flip, rebuilt, with_crc

BAD = NODES["green"]


def records_of(recipe, out, faults, *overrides):
    seen = []
    watch = lambda event: seen.append(event.record) if isinstance(event, RoundFinished) else None  # noqa: E731
    run(recipe("rounds.count=2", *overrides), out, faults=faults, watch=watch)
    return seen


def only_bad(fault):
    return lambda node, message: fault if node == BAD else None


def edit_report(**changes):
    def corrupt(reply: Message) -> None:
        record = reply.content.config_records[REPORT_RECORD]
        record[JSON_KEY] = json.dumps({**json.loads(str(record[JSON_KEY])), **changes})

    return corrupt


def replace_blob(change, stype=BLOB_STYPE):
    def corrupt(reply: Message) -> None:
        blob = change(reply.content.array_records[BLOB_RECORD][BLOB_KEY].data)
        array = Array(dtype="uint8", shape=(len(blob),), stype=stype, data=blob)
        reply.content[BLOB_RECORD] = ArrayRecord({BLOB_KEY: array})

    return corrupt


def drop_record(name):
    def corrupt(reply: Message) -> None:
        del reply.content[name]

    return corrupt


def break_report(reply: Message) -> None:
    reply.content[REPORT_RECORD] = ConfigRecord({JSON_KEY: "[" * 100_000})


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        (Fault("drop"), "late", "no-answer"),
        (Fault("error"), "failed", "client-error"),
        (Fault("delay", delay_s=30.0), "late", "no-answer"),
        (Fault("corrupt", corrupt=edit_report(examples=10**12)), "failed", "examples-out-of-range"),
        (Fault("corrupt", corrupt=edit_report(examples=0)), "failed", "examples-out-of-range"),
        (Fault("corrupt", corrupt=edit_report(round=7)), "failed", "wrong-round"),
        (Fault("corrupt", corrupt=edit_report(unknown=1)), "failed", "malformed-report"),
        (Fault("corrupt", corrupt=edit_report(base_version=3)), "failed", "wrong-base-version"),
        (Fault("corrupt", corrupt=break_report), "failed", "malformed-report"),
        (Fault("corrupt", corrupt=drop_record(REPORT_RECORD)), "failed", "malformed-reply"),
        (Fault("corrupt", corrupt=drop_record(BLOB_RECORD)), "failed", "malformed-reply"),
        (Fault("corrupt", corrupt=replace_blob(lambda blob: blob, "numpy.ndarray")), "failed", "malformed-reply"),
        (Fault("corrupt", corrupt=edit_report(outcome="refused", code="policy")), "refused", "policy"),
    ],
)
def test_a_fault_costs_one_update_and_is_attributed(recipe, tmp_path, fault, outcome, code):
    for record in records_of(recipe, tmp_path / "run", only_bad(fault)):
        by_node = {client.node: client for client in record.clients}
        assert (by_node[BAD].outcome, by_node[BAD].code) == (outcome, code)
        assert [client.outcome for node, client in by_node.items() if node != BAD] == ["trained"] * 3


@pytest.mark.parametrize("change", [lambda blob: blob[:-7], lambda blob: b"", lambda blob: b"\xff" * len(blob)])
def test_a_damaged_update_is_rejected_and_the_others_are_kept(recipe, tmp_path, change):
    for record in records_of(recipe, tmp_path / "run", only_bad(Fault("corrupt", corrupt=replace_blob(change)))):
        assert record.count("trained") == 3
        assert record.count("failed") == 1


def another_schema(body):
    body.schema_hash = b"x" * 16


def a_nan(body):
    with_crc(flip)(body)


def a_replay(body):
    body.round += 1


@pytest.mark.parametrize(
    ("change", "code"), [(another_schema, "wrong-schema"), (a_nan, "bad-values"), (a_replay, "wrong-task")]
)
def test_a_lie_with_every_checksum_right_is_rejected_by_name(recipe, tmp_path, change, code):
    corrupt = replace_blob(lambda blob: rebuilt(blob, change))
    for record in records_of(recipe, tmp_path / "run", only_bad(Fault("corrupt", corrupt=corrupt))):
        by_node = {client.node: client for client in record.clients}
        assert (by_node[BAD].outcome, by_node[BAD].code) == ("failed", code)
        assert record.count("trained") == 3


def test_the_result_with_a_bad_client_equals_the_result_without_it(recipe, tmp_path):
    bad = run(recipe(), tmp_path / "bad", faults=only_bad(Fault("corrupt", corrupt=edit_report(examples=-1))))
    absent = run(recipe(), tmp_path / "absent", faults=only_bad(Fault("drop")))
    assert bad["accuracy"] == absent["accuracy"]
    assert bad["loss"] == absent["loss"]


def test_a_second_answer_is_ignored(recipe, tmp_path):
    doubled = run(recipe(), tmp_path / "doubled", faults=only_bad(Fault("duplicate")))
    once = run(recipe(), tmp_path / "once")
    assert doubled["loss"] == once["loss"]


def test_too_few_answers_stop_the_run_with_reasons_and_it_can_be_resumed(recipe, tmp_path):
    def from_round_two(node, message):
        late = json.loads(str(message.content.config_records["task"]["json"]))["round"] == 2
        return Fault("error") if late and node != BAD else None

    with pytest.raises(QuorumError, match=r"round 2: 1 of 4 clients .* needed 2 .*3 failed \(client-error\).*--resume"):
        run(recipe(), tmp_path / "run", faults=from_round_two)
    resumed = run(recipe(), tmp_path / "run", resume=True)
    assert resumed["loss"] == run(recipe(), tmp_path / "whole")["loss"]


def test_nobody_answering_changes_nothing(recipe, tmp_path):
    with pytest.raises(QuorumError, match="0 of 4 clients"):
        run(recipe(), tmp_path / "run", faults=lambda node, message: Fault("error"))
    assert (tmp_path / "run/rounds.jsonl").exists() is False


def test_missing_clients_end_the_wait_with_what_to_do(recipe, tmp_path):
    """As in a deployment: a simulation whose data have fewer clients is refused before (`test_found`)."""
    waiting = replace(prepare(recipe()), recipe=recipe("rounds.min_clients=9"))
    with pytest.raises(MissingClientsError, match=r"4 of 9 clients connected.*rounds.min_clients"):
        simulate(waiting, tmp_path / "run", watch=lambda event: None)


def test_a_site_is_told_which_of_its_answers_was_used_last(recipe, tmp_path, monkeypatch):
    """Late in round 2: round 3 starts from what round 2 had started from, everybody else's from their own residual."""
    told = {}
    used = Feedback.residual

    def noted(self, schema, received, now, *, used_round, decay):
        told[self._path.parents[1].name, now.round] = used_round
        return used(self, schema, received, now, used_round=used_round, decay=decay)

    monkeypatch.setattr(Feedback, "residual", noted)
    late = lambda node, message: Fault("delay", delay_s=30.0) if node == BAD and round_of(message) == 2 else None  # noqa: E731
    run(recipe("rounds.count=3", "wire.codec=int4", "wire.density=0.25"), tmp_path / "run", faults=late)
    by_round = {number: {site: used for (site, n), used in told.items() if n == number} for number in (1, 2, 3)}
    assert set(by_round[1].values()) == {0}
    assert set(by_round[2].values()) == {1}
    assert by_round[3] == {site: 1 if NODES[site] == BAD else 2 for site in NODES}


def round_of(message: Message) -> int:
    return int(json.loads(str(message.content.config_records[TASK_RECORD][JSON_KEY]))["round"])

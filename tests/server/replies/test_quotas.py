"""Quotas: what one client sends over them is rejected unread, recorded, and costs nobody else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlora.config.clients.quotas import QuotaSettings
from fedlora.protocol.task import BLOB_RECORD, BLOB_STYPE
from server.record.journal import Journal
from server.replies.quotas import Meter, content_bytes
from simulations.local_grid import Fault
from tests.federations import NODES, run

BAD = NODES["green"]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_bytes_count_by_node_by_round_and_by_run():
    meter = Meter(QuotaSettings(bytes_per_round=100, bytes_per_run=250))
    meter.begin_round()
    assert [meter.count(1, 60), meter.count(2, 60), meter.count(1, 60)] == [None, None, "over-bytes-per-round"]
    meter.begin_round()
    assert [meter.count(1, 100), meter.count(2, 100)] == [None, None]
    meter.begin_round()
    assert [meter.count(1, 100), meter.count(2, 90)] == ["over-bytes-per-run", None]


def test_what_was_sent_before_a_resume_counts():
    meter = Meter(QuotaSettings(bytes_per_run=250), {1: 200})
    assert [meter.count(1, 60), meter.count(2, 60)] == ["over-bytes-per-run", None]


def test_answers_count_over_the_last_minute():
    clock = Clock()
    meter = Meter(QuotaSettings(answers_per_minute=2), clock=clock)
    assert [meter.count(1, 1) for _ in range(3)] == [None, None, "over-answers-per-minute"]
    assert meter.count(2, 1) is None
    clock.now_s += 60.0
    assert meter.count(1, 1) is None


def test_a_flood_takes_no_memory_and_ends_a_minute_after_its_end():
    clock = Clock()
    meter = Meter(QuotaSettings(answers_per_minute=2), clock=clock)
    for _ in range(1000):
        clock.now_s += 0.1
        meter.count(1, 1)
    assert len(meter._answers[1]) == 3
    clock.now_s += 59.0
    assert meter.count(1, 1) == "over-answers-per-minute"
    clock.now_s += 60.0
    assert meter.count(1, 1) is None


def test_everything_in_an_answer_is_counted_wanted_or_not():
    array = Array(dtype="uint8", shape=(5,), stype="x", data=b"12345")
    content = RecordDict(
        {"a": ArrayRecord({"b": array}), "c": ConfigRecord({"d": "äx", "e": [1, 2]}), "f": MetricRecord({"g": 1.0})}
    )
    assert content_bytes(SimpleNamespace(has_content=lambda: True, content=content)) == 5 + 3 + 16 + 8
    assert content_bytes(SimpleNamespace(has_content=lambda: False)) == 0


def only_bad(corrupt):
    return lambda node, message: Fault("corrupt", corrupt=corrupt) if node == BAD else None


def add_a_record(reply: Message) -> None:
    reply.content["more"] = ConfigRecord({"text": "x" * 100_000})


def add_an_array(reply: Message) -> None:
    array = Array(dtype="uint8", shape=(9,), stype=BLOB_STYPE, data=bytes(9))
    reply.content[BLOB_RECORD] = ArrayRecord({**reply.content.array_records[BLOB_RECORD], "more": array})


def recorded(folder):
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{client["node"]: client for client in line["clients"]} for line in lines]


@pytest.mark.parametrize("change", [add_a_record, add_an_array])
def test_what_nobody_reads_is_refused(recipe, tmp_path, change):
    run(recipe("rounds.count=1"), tmp_path / "run", faults=only_bad(change))
    (clients,) = recorded(tmp_path / "run")
    assert (clients[BAD]["outcome"], clients[BAD]["code"]) == ("failed", "unexpected-content")
    assert [client["outcome"] for node, client in clients.items() if node != BAD] == ["trained"] * 3


def test_an_answer_over_the_quota_is_recorded_with_its_bytes_and_costs_nobody_else(recipe, tmp_path):
    quota = recipe("rounds.count=2", "quotas.bytes_per_round=50000")
    over = run(quota, tmp_path / "over", faults=only_bad(add_a_record))
    absent = run(quota, tmp_path / "absent", faults=lambda n, m: Fault("drop") if n == BAD else None)
    for clients in recorded(tmp_path / "over"):
        assert (clients[BAD]["outcome"], clients[BAD]["code"]) == ("failed", "over-bytes-per-round")
        assert clients[BAD]["bytes_up"] > 100_000
    assert over["loss"] == absent["loss"]


def test_the_bytes_of_a_run_are_remembered_over_a_resume(recipe, tmp_path):
    values = recipe("rounds.count=1")
    run(values, tmp_path / "run")
    (clients,) = recorded(tmp_path / "run")
    assert Journal(tmp_path / "run", values).bytes_up() == {node: c["bytes_up"] for node, c in clients.items()}

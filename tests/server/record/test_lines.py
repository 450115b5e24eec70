"""A record that is read back is the one that was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.config import DeviceSettings
from fedlora.privacy.receipt import Receipt, Signature
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError
from fedlora.wire.packing import Packing
from server.record.lines import line_of, read_records, record_of
from server.record.records import ClientRecord, RoundRecord

NUMBERS = st.floats(0, 1e9)
SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 2**40)
EVALUATIONS = st.builds(Evaluation, loss=NUMBERS, accuracy=SHARES, examples=st.integers(0, 2**20))
MACHINES = st.builds(
    Machine, fedlora=st.just("0.2.0"), python=st.just("3.11.7"), torch=st.just("2.6"), flwr=st.just("1.39.0"),
    device=st.sampled_from(["cpu", "cuda:0"]), accelerator=st.sampled_from([None, "NVIDIA H100 PCIe"]),
)  # fmt: skip
RECEIPTS = st.builds(
    Receipt, rate=SHARES, noise_multiplier=NUMBERS, clip=NUMBERS, delta=SHARES, epsilon_run=NUMBERS,
    epsilon_lifetime=NUMBERS, delta_lifetime=SHARES, epsilon_stated=NUMBERS, delta_stated=SHARES,
    epsilon_allowed=NUMBERS,
)  # fmt: skip
PACKINGS = st.builds(
    Packing, density=st.floats(0, 1, exclude_min=True), error=NUMBERS, kurtosis=st.none() | NUMBERS,
    top_energy=st.none() | SHARES,
)  # fmt: skip
CLIENTS = st.builds(
    ClientRecord, client=st.text(min_size=1), node=COUNTS, code=st.none() | st.text(), why=st.none() | st.text(),
    examples=COUNTS, bytes_up=COUNTS, bytes_down=COUNTS, seconds=NUMBERS, received=st.none() | EVALUATIONS,
    train_loss=st.none() | NUMBERS, skipped_steps=COUNTS, packing=st.none() | PACKINGS,
    resources=st.none() | st.builds(DeviceSettings, r=st.none() | st.integers(1, 99), transfer_s=st.floats(1, 99)),
    machine=st.none() | MACHINES, receipt=st.none() | RECEIPTS, signature=st.none() | st.builds(Signature),
    change_norm=st.none() | NUMBERS,
)  # fmt: skip
ROUNDS = st.builds(
    RoundRecord, round=st.integers(1, 2**20), clients=st.lists(CLIENTS, max_size=3).map(tuple),
    aggregation_error=st.none() | NUMBERS, evaluation=st.none() | EVALUATIONS, base_version=COUNTS, seconds=NUMBERS,
    download_left_out=st.none() | SHARES,
)  # fmt: skip


@given(ROUNDS)
def test_what_is_read_back_is_what_was_written(record):
    assert record_of(json.loads(json.dumps(line_of(record)))) == record


@given(ROUNDS)
def test_what_another_version_wrote_besides_is_left_out(record):
    line = json.loads(json.dumps(line_of(record)))
    line["new"], line["clients"] = 1, [{**client, "new": {}} for client in line["clients"]]
    for client in line["clients"]:
        for part in ("packing", "resources", "machine"):
            client[part] = client[part] and {**client[part], "new": 1}
    assert record_of(line) == record


def test_a_last_line_that_was_cut_short_is_left_out_and_a_damaged_one_is_named(tmp_path):
    records = [RoundRecord(number, (), None, None, base_version=0, seconds=1.0) for number in (1, 2)]
    text = "".join(json.dumps(line_of(record)) + "\n" for record in records)
    file = tmp_path / "rounds.jsonl"
    assert list(read_records(tmp_path)) == []
    file.write_text(text + '{"round": 3, "cl')
    assert list(read_records(tmp_path)) == records
    assert list(read_records(tmp_path, after=1)) == records[1:]
    file.write_text(text.replace('"seconds"', '"minutes"', 1))
    with pytest.raises(SettingsError, match=r"line 1 of .*rounds\.jsonl is damaged"):
        list(read_records(tmp_path))

"""Receipts of a run that grows: each line is read once, and what is held is what reading all of them would hold."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fedlora.files import write_atomically
from server.record.newest_receipts import NewestReceipts
from server.record.receipts import clients_in, newest
from tests.server.record.test_receipts import record

RECORDS = st.builds(
    lambda sequence, key, client, dataset, signed: (
        {**record(sequence, key, client=client, dataset=dataset), **({} if signed else {"signature": None})}
    ),
    st.integers(1, 6), st.sampled_from("kl"), st.sampled_from(["red", "blue"]), st.sampled_from("xy"), st.booleans(),
)  # fmt: skip
ROUNDS = st.lists(st.lists(RECORDS | st.just({"receipt": None}), max_size=4), max_size=5)


def line(clients: list[dict]) -> str:
    return json.dumps({"clients": clients}) + "\n"


@given(ROUNDS, st.lists(st.integers(0, 200), max_size=6))
def test_read_piece_by_piece_it_holds_what_the_whole_file_holds(tmp_path_factory, rounds, cuts):
    path = tmp_path_factory.mktemp("run") / "rounds.jsonl"
    content = "".join(map(line, rounds))
    follower = NewestReceipts(path)
    assert follower.records() == []
    for end in [*sorted(min(cut * len(content) // 200, len(content)) for cut in cuts), len(content)]:
        with path.open("a") as file:
            file.write(content[path.stat().st_size : end])
        assert newest(follower.records()) == newest(clients_in(path))
    assert newest(follower.records()) == newest(clients_in(path))


def test_a_line_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "rounds.jsonl"
    path.write_text(line([record(1)]))
    follower, parsed, loads = NewestReceipts(path), [], json.loads
    monkeypatch.setattr("server.record.newest_receipts.json.loads", lambda text: parsed.append(text) or loads(text))
    for sequence in range(2, 6):
        follower.records()
        with path.open("a") as file:
            file.write(line([record(sequence)]))
    (found,) = newest(follower.records()).values()
    assert (found.receipt.sequence, len(parsed)) == (5, 5)


def test_a_file_that_was_replaced_cut_or_removed_is_read_anew(tmp_path):
    """As a resume does: rounds that the checkpoint does not have are no longer in the file."""
    path = tmp_path / "rounds.jsonl"
    follower = NewestReceipts(path)

    def held() -> list[int]:
        assert newest(follower.records()) == newest(clients_in(path))
        return [found.receipt.sequence for found in newest(follower.records()).values()]

    path.write_text(line([record(1)]) + line([record(2)]))
    assert held() == [2]
    write_atomically(path, (line([record(1)]) + line([record(9, client="blue")]) + line([])).encode())
    assert sorted(held()) == [1, 9]
    with Path(path).open("r+") as file:
        file.truncate(len(line([record(1)])))
    assert held() == [1]
    path.unlink()
    assert held() == []

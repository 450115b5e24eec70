"""What many clients of one process are sent is decoded once, and never taken for something else."""

from __future__ import annotations

import pytest

from client.state.received import KEPT, Recent
from fedlora.wire.message import WireError, state_hash
from fedlora.wire.state import decode_state
from tests.privacy.rounds import coordinator


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return coordinator(tmp_path_factory.mktemp("model"))


def test_the_same_bytes_are_decoded_once_and_others_by_themselves(server):
    recent, (task, blob) = Recent(), server.ask(1)
    template = server.home.template
    first = recent.state(task, blob, template)
    assert recent.state(task, bytes(bytearray(blob)), template) is first
    alone, _ = decode_state(blob, template, run=task.run, round_number=task.round)
    assert first.name == state_hash(alone.tensors())
    later, later_blob = server.ask(2)
    assert recent.state(later, later_blob, template) is not first
    for _ in range(2):  # what was refused once is refused again
        with pytest.raises(WireError):
            recent.state(later, blob, template)
        with pytest.raises(WireError):
            recent.state(task, blob[:-1] + bytes([blob[-1] ^ 1]), template)


def test_few_are_kept(server):
    recent = Recent()
    for number in range(1, KEPT + 3):
        recent.state(*server.ask(number), server.home.template)
    assert len(recent._kept) == KEPT

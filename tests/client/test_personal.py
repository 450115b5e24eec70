"""What a site keeps of its own: a repeated round starts where it had started, whatever was killed in between."""

from __future__ import annotations

import torch

from client.personal import Personal
from fedlora.updates import Adapter, Factor
from tests.wire.test_message import adapter

OWN = (Factor.B,)


def round_of(personal: Personal, received: Adapter, number: int) -> None:
    """Local training that adds 1 to what the site keeps."""
    started = personal.merged(received, for_round=number).tensors(OWN)
    personal.keep({name: b + 1 for name, b in started.items()}, received=received, after_round=number)


def steps_taken(merged: Adapter, received: Adapter) -> set[float]:
    gained = [(merged.tensors(OWN)[name] - tensor).round(decimals=4) for name, tensor in received.tensors(OWN).items()]
    return set(torch.cat([tensor.flatten() for tensor in gained]).tolist())


def test_a_site_trains_on_from_what_it_kept_and_leaves_the_rest_as_received(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    assert personal.merged(received) is received
    for number in (1, 2, 4):
        round_of(personal, received, number)
    assert steps_taken(personal.merged(received), received) == {3.0}
    later = received.with_tensors({name: tensor + 5 for name, tensor in received.tensors((Factor.A,)).items()})
    assert all(torch.equal(t, later.tensors()[name]) for name, t in personal.merged(later).tensors((Factor.A,)).items())


def test_a_round_that_is_repeated_is_trained_once(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    for number in (1, 1, 2, 2, 2, 3):
        round_of(personal, received, number)
        assert steps_taken(personal.merged(received), received) == {float(number)}
    assert steps_taken(personal.merged(received, for_round=3), received) == {2.0}
    assert steps_taken(personal.merged(received, for_round=4), received) == {3.0}

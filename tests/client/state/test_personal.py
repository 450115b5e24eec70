"""What a site keeps of its own: a repeated round starts where it had started, whatever was killed in between."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from client.state.personal import Personal
from fedlora.updates import Adapter, Factor
from tests.wire.test_message import adapter

OWN = (Factor.B,)


def round_of(personal: Personal, received: Adapter, number: int, *, private: bool = False) -> None:
    """Local training that adds 1 to what the site keeps."""
    started = personal.merged(received, private=private, for_round=number).tensors(OWN)
    kept = {name: b + 1 for name, b in started.items()}
    personal.keep(kept, received=received, after_round=number, private=private)


def merged(personal: Personal, received: Adapter, **options: int) -> Adapter:
    return personal.merged(received, private=False, **options)


def steps_taken(merged: Adapter, received: Adapter) -> set[float]:
    gained = [(merged.tensors(OWN)[name] - tensor).round(decimals=4) for name, tensor in received.tensors(OWN).items()]
    return set(torch.cat([tensor.flatten() for tensor in gained]).tolist())


def test_a_site_trains_on_from_what_it_kept_and_leaves_the_rest_as_received(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    assert merged(personal, received) is received
    for number in (1, 2, 4):
        round_of(personal, received, number)
    assert steps_taken(merged(personal, received), received) == {3.0}
    later = received.with_tensors({name: tensor + 5 for name, tensor in received.tensors((Factor.A,)).items()})
    assert all(
        torch.equal(t, later.tensors()[name]) for name, t in merged(personal, later).tensors((Factor.A,)).items()
    )


def test_a_round_that_is_repeated_is_trained_once(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    for number in (1, 1, 2, 2, 2, 3):
        round_of(personal, received, number)
        assert steps_taken(merged(personal, received), received) == {float(number)}
    assert steps_taken(merged(personal, received, for_round=3), received) == {2.0}
    assert steps_taken(merged(personal, received, for_round=4), received) == {3.0}


def test_what_was_trained_without_privacy_is_no_part_of_a_private_round(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    for number in (1, 2):
        round_of(personal, received, number)
    assert personal.merged(received, private=True, for_round=3) is received
    for number in (3, 3, 4):
        round_of(personal, received, number, private=True)
    assert steps_taken(personal.merged(received, private=True), received) == {2.0}
    assert steps_taken(personal.merged(received, private=True, for_round=4), received) == {1.0}
    round_of(personal, received, 5)
    assert personal.merged(received, private=True) is received


def test_factors_that_nothing_says_were_private_are_not_taken_for_it(tmp_path):
    personal, received = Personal(tmp_path, "run"), adapter()
    round_of(personal, received, 1, private=True)
    (path,) = (tmp_path / "personal").iterdir()
    path.write_bytes(save(load(path.read_bytes()), metadata={"round": "1"}))
    assert personal.merged(received, private=True) is received
    assert steps_taken(personal.merged(received, private=False), received) == {1.0}

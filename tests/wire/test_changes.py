"""The download as changes: who follows the links holds what the coordinator says, bit for bit; turns; error memory."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fedlora.config.wire import WireSettings
from fedlora.settings import SettingsError, parse
from fedlora.updates import Adapter, LowRank, norm, subtract
from fedlora.wire.changes import Step, follow, next_links, packed_changes, product, turns_between
from fedlora.wire.message import WireError, state_hash
from fedlora.wire.packing import CodecName
from strategies.fedsvd import refactored

CODECS: tuple[CodecName, ...] = get_args(CodecName)


def adapter(seed: int, *, like: Adapter | None = None) -> Adapter:
    """Random, or `like` with other B's and head."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"p": (40, 30), "q": (12, 50)}
    layers = {
        name: LowRank(
            torch.randn(m, 4, generator=draw),
            like.layers[name].A_rn if like else torch.randn(4, n, generator=draw),
            0.5,
        )
        for name, (m, n) in shapes.items()
    }
    return Adapter(layers, {"head/bias": torch.randn(3, generator=draw)})


def step(held: Adapter, target: Adapter, number: int, codec: CodecName = "fp32", density: float = 1.0) -> Step:
    return next_links(held, target, run="r", round_number=number, strategy="x", codec=codec, density=density)


def same_bits(left: Adapter, right: Adapter) -> bool:
    return state_hash(left.tensors()) == state_hash(right.tensors())


@given(st.integers(0, 10**6), st.sampled_from(CODECS), st.sampled_from([1.0, 0.3, 1 / 16, 1e-6]), st.booleans())
def test_who_follows_holds_the_coordinators_bits_from_wherever_it_stands(seed, codec, density, refactors):
    states, links = [adapter(seed)], []
    for number in range(1, 4):
        target = adapter(seed + number, like=states[-1])
        if refactors:
            target = Adapter({name: refactored(layer) for name, layer in target.layers.items()}, target.dense)
        done = step(states[-1], target, number, codec, density)
        links += done.links
        states.append(done.held)
    for held in states:  # the last one is there already: a repeated download
        assert same_bits(follow(packed_changes(links, states[-1]), held, run="r"), states[-1])
    with pytest.raises(WireError, match="wrong-base-state"):
        follow(packed_changes(links, states[-1]), adapter(seed + 99), run="r")


def test_a_turn_is_r_by_r_and_serves_the_refactored_state():
    """FedSVD: what is sent is the change of B in the old coordinates, and T; A travels never again."""
    held = adapter(0)
    averaged = adapter(1, like=held)
    target = Adapter({name: refactored(layer) for name, layer in averaged.layers.items()}, averaged.dense)
    done = step(held, target, 1)
    for name, layer in target.layers.items():
        assert_close(done.held.layers[name].A_rn, layer.A_rn, atol=1e-5, rtol=1e-5)
        assert_close(done.held.layers[name].dense(), averaged.layers[name].dense(), atol=1e-4, rtol=1e-4)
    whole = sum(4 * tensor.numel() for tensor in target.tensors().values())
    without_a = whole - sum(4 * layer.A_rn.numel() for layer in target.layers.values())
    assert sum(map(len, done.links)) < without_a + 2 * 2 * 4 * 16 + 700 < whole
    assert done.left_out < 1e-6


def test_turns_do_not_drift_away_from_the_strategys_state_in_two_hundred_rounds():
    held = target = adapter(0)
    for number in range(1, 201):
        moved = {name: target.layers[name].B_mr + 0.1 * layer.B_mr for name, layer in adapter(number).layers.items()}
        layers = {name: LowRank(B, target.layers[name].A_rn, 0.5) for name, B in moved.items()}
        target = Adapter({name: refactored(layer) for name, layer in layers.items()}, target.dense)
        held = step(held, target, number).held
    assert norm(subtract(held.tensors(), target.tensors())) / norm(target.tensors()) < 1e-5


def test_an_a_that_moved_out_of_its_rows_is_sent_as_a_change():
    held, target = adapter(0), adapter(1)
    assert turns_between(held, target) == {}
    assert_close(step(held, target, 1).held.tensors(), target.tensors(), atol=1e-5, rtol=1e-5)


def test_what_did_not_change_costs_nothing():
    held = adapter(0)
    assert step(held, held, 1).links == ()
    assert same_bits(follow(packed_changes((), held), held, run="r"), held)


@pytest.mark.parametrize("codec", ["fp16", "int4", "sign"])
def test_what_a_lossy_change_leaves_out_comes_with_the_next_ones(codec):
    held, target = adapter(0), adapter(1)
    first = step(held, target, 1, codec, 1 / 8)
    assert first.left_out > 0.3
    held = first.held
    for number in range(2, 60):
        held = step(held, target, number, codec, 1 / 8).held
    assert norm(subtract(held.tensors(), target.tensors())) < 0.05 * norm(
        subtract(adapter(0).tensors(), target.tensors())
    )


@pytest.mark.parametrize("blob", [b"\xff", b"\x0a\x02\x0a\xff", b"\x0a\x00"])
def test_bytes_that_are_no_changes_are_refused(blob):
    with pytest.raises(WireError):
        follow(blob, adapter(0), run="r")


def test_links_of_another_run_are_refused():
    held = adapter(0)
    done = step(held, adapter(1), 1)
    with pytest.raises(WireError, match="wrong-task"):
        follow(packed_changes(done.links, done.held), held, run="other")


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 6), st.integers(1, 20))
def test_a_product_with_fixed_order_is_a_product(seed, m, r, n):
    draw = torch.Generator().manual_seed(seed)
    left, right = torch.randn(m, r, generator=draw), torch.randn(r, n, generator=draw)
    assert_close(product(left, right), left @ right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("values", [{"download_density": 0.1}, {"download_codec": "int4"}])
def test_a_lossy_download_of_whole_states_is_refused(values):
    with pytest.raises(
        SettingsError, match=r"wire: .* works only for changes, not for complete states; set download: changes"
    ):
        parse(WireSettings, values, prefix="wire")

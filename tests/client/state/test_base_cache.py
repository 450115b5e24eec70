"""A base that moves: whoever was away, and however long, ends where those are who were there every round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from client.state.base_cache import hold
from fedlora.adapters import fold, initial_adapter, inject
from fedlora.adapters.inject import adapted_layers
from fedlora.config import AdapterSettings
from fedlora.lowrank import Product, dense_is_smaller
from fedlora.wire.state import decode_state, encode_state
from strategies.base import Recipient, State
from strategies.registry import named
from tests.strategies.examples import built, random_adapter, updates_for

SETTINGS = AdapterSettings(r=2, alpha=3.0)
ROUNDS = 7


class Site:
    """A client as far as its base goes: a folder, and what the coordinator believes that it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.held = folder, 0

    def attend(self, strategy, state: State) -> None:
        """Receive the state over the wire and keep what belongs to the base."""
        payload = strategy.broadcast(state, Recipient(self.folder.name, self.held))
        blob = encode_state(
            payload.adapter, payload.residual, run="run", round_number=1, strategy="fedex", codec="fp32"
        )
        _, residual = decode_state(blob, state.adapter, run="run", round_number=1)
        held = hold(self.folder, "run", payload.base_version, residual, since=payload.residual_since)
        self.held = held.version


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    layers = adapted_layers(model)
    return {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers}


@pytest.mark.parametrize("name", named(moves_base=True))
@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_gpt2"])
def test_a_newcomer_and_one_that_skipped_five_rounds_hold_the_base_of_one_that_attended_all(
    request, tmp_path, name, kind
):
    model = request.getfixturevalue(kind)
    inject(model, SETTINGS)
    strategy = built(name)
    state = strategy.init(initial_adapter(model, SETTINGS, seed=0))
    always, absent, newcomer = (Site(tmp_path / site) for site in ("always", "absent", "newcomer"))
    start = base_weights(model)
    every: list[Mapping[str, Product]] = []
    for number in range(1, ROUNDS + 1):
        always.attend(strategy, state)
        if number in (1, ROUNDS):
            absent.attend(strategy, state)
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
        every.append(state.residuals[-1])
    assert state.merged > 0  # what a newcomer is sent is in part a merged past
    for site in (always, absent, newcomer):
        site.attend(strategy, state)
    reached = {}
    for site in (always, absent, newcomer):
        assert site.held == ROUNDS
        fold(model, hold(site.folder, "run", ROUNDS, {}, since=ROUNDS).total)
        reached[site.folder.name] = base_weights(model)
    for key, before in start.items():
        moved = sum(residual[key].dense() for residual in every)
        wanted = before.double() + (moved.mT if kind == "tiny_gpt2" else moved)
        size = float(wanted.abs().max())
        for site, weights in reached.items():
            gap = float((weights[key].double() - wanted).abs().max())
            assert gap < 1e-6 * size, f"{site}: {key} is off by {gap / size:.1e}"
        assert not torch.equal(wanted, before.double())


def test_a_retried_message_adds_its_residual_once(tmp_path):
    strategy = built("fedex")
    state = strategy.init(random_adapter(0))
    state = strategy.step(state, strategy.combine(updates_for(strategy, state)))
    residual = strategy.broadcast(state, Recipient("a", 0)).residual
    once = hold(tmp_path, "run", 1, residual, since=0)
    again = hold(tmp_path, "run", 1, residual, since=0)
    for key, product in once.total.items():
        assert torch.equal(product.dense(), again.total[key].dense())


def test_a_residual_that_starts_elsewhere_is_refused_and_changes_nothing(tmp_path):
    strategy = built("fedex")
    state = strategy.init(random_adapter(0))
    for number in (1, 2, 3):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
    residual = strategy.broadcast(state, Recipient("a", 2)).residual
    with pytest.raises(ValueError, match="starts at base version 2, but this site has 0"):
        hold(tmp_path, "run", 3, residual, since=2)
    assert not (tmp_path / "base.safetensors").exists()


def test_a_whole_sum_takes_the_place_of_what_a_site_already_holds(tmp_path):
    """A site at version 2, between 0 and what the coordinator has merged, is sent everything: it is not added to 2."""
    strategy = built("fedex")
    state = strategy.init(random_adapter(0))
    every: list[Mapping[str, Product]] = []
    for number in range(1, ROUNDS + 1):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
        every.append(state.residuals[-1])
        if number == 2:
            first = strategy.broadcast(state, Recipient("a", 0))
            assert hold(tmp_path, "run", 2, first.residual, since=first.residual_since).version == 2
    assert 2 < state.merged
    sent = strategy.broadcast(state, Recipient("a", 2))
    assert (sent.residual_since, sent.base_version) == (0, ROUNDS)
    reached = hold(tmp_path, "run", ROUNDS, sent.residual, since=0).total
    for name, product in reached.items():
        assert_close(product.dense(), sum(residual[name].dense() for residual in every), atol=1e-9, rtol=1e-9)


def test_another_run_starts_from_the_base_as_it_was_loaded(tmp_path):
    strategy = built("fedex")
    state = strategy.init(random_adapter(0))
    state = strategy.step(state, strategy.combine(updates_for(strategy, state)))
    residual = strategy.broadcast(state, Recipient("a")).residual
    hold(tmp_path, "run", 1, residual, since=0)
    other = hold(tmp_path, "other", 1, residual, since=0)
    assert_close(other.total["square"].dense(), residual["square"].dense())


@pytest.mark.parametrize(("clients", "dense"), [(2, False), (3, True), (6, True)])
def test_a_residual_is_sent_as_factors_until_dense_is_smaller(clients, dense):
    """12 x 12 at rank 3: (K - 1) 3 · 24 numbers against 144. Either way the same matrix arrives."""
    strategy = built("fedex")
    state = strategy.init(random_adapter(0))
    state = strategy.step(state, strategy.combine(updates_for(strategy, state, clients=clients)))
    residual = {"square": strategy.broadcast(state, Recipient("a")).residual["square"]}
    assert dense_is_smaller((clients - 1) * 3, (12, 12)) == dense
    bare, whole = (
        encode_state(state.adapter, part, run="run", round_number=1, strategy="fedex", codec="fp32")
        for part in ({}, residual)
    )
    numbers = (len(whole) - len(bare)) / 4
    assert numbers == pytest.approx(144 if dense else (clients - 1) * 3 * 24, rel=0.2)
    _, received = decode_state(whole, state.adapter, run="run", round_number=1)
    assert_close(received["square"].dense(), residual["square"].dense(), atol=1e-5, rtol=1e-6)


def test_the_break_even_is_where_factors_and_the_matrix_are_equally_long():
    """1024 x 1024, r = 8: from K = 65 on, (K - 1) r (m + n) is m n or more."""
    assert [dense_is_smaller((clients - 1) * 8, (1024, 1024)) for clients in (64, 65, 66)] == [False, True, True]
    assert dense_is_smaller(3, (6, 6))
    assert not dense_is_smaller(2, (6, 7))

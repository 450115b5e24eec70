"""A state of which nothing finite comes: its evaluation says so, with the way out, at a site and at the coordinator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.round import answer
from fedlora.adapters import initial_adapter
from fedlora.settings import RunError
from server.replies.quorum import ADVICE
from simulations.run import prepare
from simulations.simulation import on_held_out
from strategies.base import State
from tests.privacy.rounds import coordinator, site
from tests.token_examples import token_ids

UNKNOWN = 49
"""A token to which the model below is not a number."""


def poison(server) -> None:
    words = server.home.model.get_input_embeddings()
    words.register_forward_hook(
        lambda _, args, y: torch.where((args[0] == UNKNOWN).unsqueeze(-1), torch.full_like(y, float("nan")), y)
    )


def test_a_site_where_what_it_received_has_no_finite_loss_says_so(tmp_path, caplog):
    server, here = coordinator(tmp_path / "model"), site(tmp_path / "site", count=16)
    poison(server)
    for text in token_ids(here.data.train):
        text[text == UNKNOWN] = 48
    for text in token_ids(here.data.test):
        text[0] = UNKNOWN
    report, blob = answer(*server.ask(1, privacy={}), here)
    assert (report.outcome, report.code, blob) == ("failed", "not-finite", None)
    assert "the model's loss on 10 test examples is not finite: its adapter has grown" in caplog.text
    assert ADVICE["not-finite"].startswith("What they received, or every step of theirs, had no finite loss")


def test_a_state_without_a_finite_loss_on_the_coordinator_s_test_set_ends_the_run_with_the_way_out(recipe):
    simulation = prepare(recipe())
    adapter = initial_adapter(simulation.loaded_model.model, recipe().adapter, seed=0)
    grown = {name: torch.full_like(tensor, float("nan")) for name, tensor in adapter.dense.items()}
    with pytest.raises(RunError, match=r"test examples is not finite.* Lower train\.lr, set train\.max_grad_norm"):
        on_held_out(simulation, State(replace(adapter, dense=grown)))

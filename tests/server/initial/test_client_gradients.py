"""A first step from the clients' gradients: exactly their sum, charged like any round, asked for once."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from fedlora.adapters import initial_adapter, write
from fedlora.config import AdapterSettings
from fedlora.data.examples import concatenate
from fedlora.settings import SettingsError
from server.gradient_recipe import gradient_recipe
from server.initial.first_step import gradient_sum
from simulations.run import prepare
from strategies.compatibility import case_of, require_compatible
from tests.federations import run

SB = (
    "strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=client-gradients", "adapter.r=3", "rounds.count=2",
    "adapter.first_step={batch_size: 10000}",
)  # fmt: skip
PRIVATE = ("adapter.first_step={batch_size: 16, epsilon: 2.0, clip: 0.5}", "privacy.epsilon=3.0", "privacy.delta=1e-3")


def test_without_privacy_the_start_is_that_of_the_gradient_of_all_clients_data(recipe, tmp_path):
    """The slow clear twin: autograd on the base's own matrices, over everybody's examples at once."""
    settings = recipe(*SB)
    run(settings, tmp_path / "run")
    sent = load_file(tmp_path / "run/first-step/checkpoint.safetensors")
    simulation = prepare(settings)
    write(
        simulation.loaded_model.model,
        initial_adapter(simulation.loaded_model.model, settings.adapter, seed=settings.seed),
    )
    start = load_file(tmp_path / "run/checkpoint.safetensors")
    everything = concatenate([client.train for client in simulation.data.clients.values()])
    wanted = gradient_sum(simulation.loaded_model.model, everything, settings)
    for name, gradient in wanted.items():
        given = -sent[f"adapter/{name}.B"]
        cosine = (given * gradient).sum() / (given.norm() * gradient.norm())
        assert float(cosine) == pytest.approx(1.0, abs=1e-5)
        B, A = start[f"adapter/{name}.B"].double(), start[f"adapter/{name}.A"].double()
        step = given.sign().double()
        assert torch.allclose(B.mT @ B, torch.eye(3).double(), atol=1e-5)
        assert torch.allclose(torch.linalg.svdvals(B.mT @ step @ A.mT), torch.linalg.svdvals(step)[:3], atol=1e-5)


def test_under_privacy_the_first_step_is_charged_as_a_run_of_its_own_and_both_are_composed(recipe, tmp_path):
    summary = run(recipe(*SB, *PRIVATE), tmp_path / "run")
    assert summary["initialisation"] == "LoRA-SB from the clients' gradients, epsilon 2 a client"
    assert 1.0 < summary["first_step_epsilon_max"] <= 2.0
    assert 1.5 < summary["epsilon_max"] <= 3.0
    assert max(summary["first_step_epsilon_max"], summary["epsilon_max"]) < summary["epsilon_max_with_first_step"] < 5.0
    (ledger,) = (tmp_path / "run/sites/blue").glob("**/*.jsonl")
    charges = [json.loads(line) for line in ledger.read_text().splitlines() if '"charge"' in line]
    assert len({charge["run"] for charge in charges}) == 2
    assert [charge["steps"] for charge in charges] == [1, 3, 3]


def test_what_was_asked_is_counted_and_is_not_asked_again_after_a_kill(recipe, tmp_path):
    settings, folder = recipe(*SB, *PRIVATE), tmp_path / "run"
    summary = run(settings, folder)
    first = [json.loads(line) for line in (folder / "first-step/rounds.jsonl").read_text().splitlines()]
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert summary["bytes_up"] == sum(line["bytes_up"] for line in [*first, *rounds])
    for file in ("checkpoint.safetensors", "checkpoint.previous.safetensors", "summary.json"):
        (folder / file).unlink()  # killed between the first step and round 1
    again = run(settings, folder)
    assert [json.loads(line) for line in (folder / "first-step/rounds.jsonl").read_text().splitlines()] == first
    assert again["first_step_epsilon_max"] == summary["first_step_epsilon_max"]


def test_a_resumed_run_keeps_its_b_and_a(recipe, tmp_path):
    settings, folder = recipe(*SB), tmp_path / "run"
    run(settings.model_copy(update={"rounds": settings.rounds.model_copy(update={"count": 1})}), folder)
    first = load_file(folder / "checkpoint.safetensors")
    run(settings, folder, resume=True)
    last = load_file(folder / "checkpoint.safetensors")
    fixed = [name for name in first if name.endswith((".A", ".B"))]
    assert fixed
    assert all(torch.equal(first[name], last[name]) for name in fixed)


def test_a_site_is_asked_in_the_recipes_own_name_and_everything_lossy_is_off(recipe):
    asked = gradient_recipe(recipe(*SB, *PRIVATE, "wire.codec=int4", "train.momentum=0.9"), 16)
    assert asked.strategy.name == "fedsb"  # a site's policy lists strategies
    assert (asked.adapter.r, asked.adapter.kind, asked.adapter.dropout) == (16, "lora", 0.0)
    assert (asked.train.optimizer, asked.train.lr, asked.train.momentum, asked.train.steps) == ("sgd", 1.0, 0.0, 1)
    assert not asked.wire.lossy
    assert (asked.privacy.epsilon, asked.privacy.clip, asked.rounds.count) == (2.0, 0.5, 1)
    moved = ("train.schedule=cosine", "train.warmup=1", "train.proximal_mu=0.1")
    step = gradient_recipe(recipe(*SB, *PRIVATE, *moved), 16).train
    assert (step.schedule, step.warmup, step.proximal_mu, step.optimizer_state) == ("constant", 0.0, 0.0, "reset")
    adapting = recipe(*SB, *PRIVATE, "privacy.adapt={below: 0.8}")
    assert gradient_recipe(adapting, 16).privacy.adapt is None, "before the first round there is no accuracy to follow"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("adapter.kind=lora",), "set kind: lora_xs and first_step"),
        (("adapter.first_step=null",), "set kind: lora_xs and first_step"),
        (("privacy.epsilon=3.0",), "set a budget for both, or for neither"),
        (("adapter.first_step.epsilon=1.0",), "set a budget for both, or for neither"),
        ((*PRIVATE, "privacy.client_level={clip: 1, noise_multiplier: 1}"), "does not clip"),
    ],
)
def test_a_first_step_that_would_give_away_what_the_run_hides_is_refused(recipe, overrides, says):
    with pytest.raises(SettingsError, match=says):
        require_compatible(case_of(recipe(*SB, *overrides)))


def test_every_start_is_named():
    start = {kind: AdapterSettings(kind=kind).start for kind in ("lora", "lora_xs")}
    assert start == {"lora": "kaiming A, B = 0", "lora_xs": "random orthonormal B and A, R = 0"}
    assert AdapterSettings(init="orthonormal").start == "orthonormal A, B = 0"
    public = AdapterSettings(kind="lora_xs", init="gradient", public={"source": "airlines"})
    assert public.start == "LoRA-SB from the gradient on public data (airlines)"

"""Private steps have no chance in them: what draws is off, what still draws is found, and what was set comes back."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from client.training import Protection, private_steps
from fedlora.config import Recipe, TrainSettings
from fedlora.data.examples import invented
from fedlora.privacy.chance import without_draws
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.quiet import checkpointing, without_randomness
from fedlora.privacy.refusal import Code, Refusal
from fedlora.settings import SettingsError, parse
from strategies.compatibility import case_of, require_compatible
from tests.privacy.architectures import CONFIGS, loaded
from tests.privacy.models import Examples, classifier
from tests.privacy.test_engine import BACKENDS, engine_of

MECHANISM = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=1.0)


def summed(model, on, *, state: int) -> torch.Tensor:
    """The clipped sum over three invented texts of full length, the generators in `state`."""
    texts = invented(model, on=on, padding=1)
    torch.manual_seed(state)
    train, protection = TrainSettings(optimizer="sgd", lr=0.1), Protection(MECHANISM, SeededSource(0))
    with private_steps(model, texts, train, on=on, protection=protection) as (engine, loss):
        found = engine.clipped_sum(torch.tensor([3, 4, 5]), loss)
    return torch.cat([total.flatten() for total in found.values()])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"deberta", "xlnet"}))
def test_nothing_is_dropped_whatever_the_architecture_and_where(name, checkpoint, tmp_path):
    """Dropout in modules and by function, in attention, whole layers, router noise: set to 0.3, and off."""
    model, _, on = loaded(name, tmp_path, gradient_checkpointing=checkpoint)
    with torch.random.fork_rng(devices=[]):
        assert torch.equal(summed(model.train(), on, state=1), summed(model, on, state=2))
        assert torch.equal(summed(model, on, state=1), summed(model.eval(), on, state=3))


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt", "falcon"])
def test_checkpointed_layers_recompute_all_the_same(name, tmp_path):
    model, _, on = loaded(name, tmp_path, gradient_checkpointing=True)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert set(layers) <= checkpointing(model)
    runs = []
    norm = next(module for module in layers[0].modules() if isinstance(module, nn.LayerNorm))
    norm.register_forward_hook(lambda *_: runs.append(torch._C._current_graph_task_id() != -1))
    summed(model, on, state=0)
    assert runs.count(True) > 0


@pytest.mark.parametrize("name", ["gpt2", "falcon", "opt"])
def test_modes_and_settings_come_back_also_after_an_error(name, tmp_path):
    model, _, _ = loaded(name, tmp_path, gradient_checkpointing=True)
    model.train()
    model.get_submodule("head").eval()
    modes = [module.training for module in model.modules()]
    configs = [dict(vars(module.config)) for module in model.modules() if hasattr(module, "config")]
    own = [module.dropout for module in model.modules() if isinstance(getattr(module, "dropout", None), float)]
    with pytest.raises(KeyError), without_randomness(model):
        raise KeyError
    assert [module.training for module in model.modules()] == modes
    assert [dict(vars(module.config)) for module in model.modules() if hasattr(module, "config")] == configs
    assert [m.dropout for m in model.modules() if isinstance(getattr(m, "dropout", None), float)] == own


class Draws(nn.Module):
    """A layer that draws in every mode, as some do (Reformer's hashing): the engine cannot switch it off."""

    def __init__(self, inner: nn.Module, draw) -> None:
        super().__init__()
        self.inner, self.draw = inner, draw

    def forward(self, x):
        return self.inner(x) * (1 + 0.1 * self.draw())


OWN = torch.Generator()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: float(torch.rand(())), "draws from torch's random generator"),
        (lambda: random.random(), "draws from Python's random generator"),
        (lambda: float(np.random.random()), "draws from numpy's random generator"),
        (lambda: float(torch.rand((), generator=OWN)), "changes with the other examples, or from one try to the next"),
    ],
)
def test_what_draws_in_every_mode_is_refused_in_the_rehearsal(draw, match, backend):
    model = classifier()
    model.encoder["b"] = Draws(model.encoder["b"], draw)
    with pytest.raises(Refusal, match=match) as caught, engine_of(model, gradients=backend) as engine:
        engine.rehearse(Examples(3).loss(model))
    assert caught.value.code is Code.UNSUPPORTED_MODEL


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_draw_of_another_thread_is_not_the_model_s(backend):
    """Flower's heartbeat draws how long it waits: on a slow machine it fell into a rehearsal, and a sound model was
    refused. Here one falls into every call."""
    asked, drawn, over = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def beats() -> None:
        while not over.is_set():
            asked.acquire()
            random.uniform(0, 1)
            drawn.release()

    heart = threading.Thread(target=beats, daemon=True)
    heart.start()

    def beat() -> float:
        asked.release()
        drawn.acquire()
        return 0.0

    model = classifier()
    model.encoder["b"] = Draws(model.encoder["b"], beat)
    before = random.random
    with engine_of(model, gradients=backend) as engine:
        engine.rehearse(Examples(3).loss(model))
    assert random.random is before
    over.set()
    asked.release()
    heart.join()


def every_second() -> Callable[[], float]:
    calls = itertools.count()
    return lambda: random.random() if next(calls) % 2 else 0.0


def once() -> Callable[[], float]:
    """A table that is made when it is first needed."""
    table: list[float] = []
    return lambda: table[0] if table else table.append(random.random()) or table[0]


@pytest.mark.parametrize("draw", [every_second, once, lambda: in_a_thread_of_its_own])
def test_what_draws_now_and_then_or_elsewhere_is_refused_too(draw):
    model = classifier()
    model.encoder["b"] = Draws(model.encoder["b"], draw())
    with pytest.raises(Refusal, match="draws from Python's random generator"), engine_of(model) as engine:
        engine.rehearse(Examples(3).loss(model))


def own_generator(x: torch.Tensor) -> torch.Tensor:
    return (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.5) * 2.0


def forked_dropout(x: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return functional.dropout(torch.ones_like(x), 0.5, training=True)


def numpy_s(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(tuple(x.shape))).to(x)


def by_row(x: torch.Tensor) -> torch.Tensor:
    return 1.0 + torch.arange(len(x)).view(-1, *[1] * (x.dim() - 1)).to(x)


class Masks(nn.Module):
    """Masks by place in the batch, the same in every forward: 3 to 5 C, and no generator's state has changed."""

    def __init__(self, inner: nn.Module, mask: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.mask = inner, mask

    def forward(self, x):
        return self.inner(x) * self.mask(x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", [own_generator, forked_dropout, numpy_s, by_row])
def test_a_mask_by_place_from_a_seed_of_the_model_s_own_is_refused(mask, backend):
    model = classifier()
    model.encoder["b"] = Masks(model.encoder["b"], mask)
    with (
        pytest.raises(Refusal, match="of one example depends on another"),
        engine_of(model, gradients=backend) as engine,
    ):
        engine.rehearse(Examples(3).loss(model))


def test_what_only_the_largest_batch_does_is_refused():
    model = classifier()
    model.encoder["b"] = Masks(model.encoder["b"], lambda x: torch.tensor(0.5 if len(x) == 6 else 1.0))
    loss = Examples(6).loss(model)
    with engine_of(model) as engine:
        engine.rehearse(loss)
        engine.rehearse_whole_batch(loss, [0, 1, 2, 3, 4])
        with pytest.raises(Refusal, match="of one example depends on another"):
            engine.rehearse_whole_batch(loss, [0, 1, 2, 3, 4, 5])


def test_two_rehearsals_in_two_threads_wait_for_each_other():
    """Side by side they refused sound models, and left Python's generator in the state of a seed."""
    before = random.getstate()
    made = [(model, Examples(3).loss(model)) for model in (classifier(), classifier(), classifier(), classifier())]
    found: list[BaseException | None] = []

    def rehearse(model: nn.Module, loss) -> None:
        try:
            with engine_of(model) as engine:
                engine.rehearse(loss)
            found.append(None)
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=rehearse, args=one) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None] * 4
    assert random.getstate() == before


def test_a_thread_that_takes_the_number_of_one_that_has_ended_is_the_model_s():
    over = threading.Event()
    old = threading.Thread(target=over.wait)
    old.start()

    def draws() -> float:
        over.set()
        old.join()
        for _ in range(20):  # one of them has its number
            in_a_thread_of_its_own()
        return 0.0

    with pytest.raises(Refusal, match="draws from Python's random generator"):
        without_draws(1, draws)


def in_a_thread_of_its_own() -> float:
    drawn: list[float] = []
    thread = threading.Thread(target=lambda: drawn.append(random.random()))
    thread.start()
    thread.join()
    return drawn[0]


def test_a_dropout_that_shows_in_gradients_alone_is_found():
    """In front of A while B is zero, a mask changes no loss: A's input, and so B's gradient, it does."""
    model, examples = classifier(), Examples(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)

    class Always(nn.Module):
        def forward(self, x):
            return functional.dropout(x, 0.5, training=True)

    for block in model.encoder.values():
        block.query.lora_dropout["default"] = Always()
    with pytest.raises(Refusal, match="draws from torch's"), engine_of(model) as engine:
        engine.rehearse(examples.loss(model))


def test_the_generators_are_left_as_they_were_also_after_an_error():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def fail() -> None:
        torch.rand(1), random.random(), np.random.random()
        raise KeyError

    with pytest.raises(KeyError):
        without_draws(3, fail)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_dropout_in_the_adapter_is_refused_with_the_reason():
    with pytest.raises(SettingsError, match=r"adapter\.dropout=0\.1 and privacy exclude.*Remove adapter\.dropout"):
        require_compatible(case_of(parse(Recipe, {"adapter": {"dropout": 0.1}, "privacy": {"epsilon": 3.0}})))
    require_compatible(case_of(parse(Recipe, {"adapter": {"dropout": 0.1}})))
    with pytest.raises(Refusal, match=r"private steps train without dropout.*set adapter\.dropout to 0") as caught:
        require_no_dropout(0.1)
    assert caught.value.code is Code.DROPOUT
    require_no_dropout(0.0)


def test_dropout_in_a_live_adapter_is_refused_at_the_engine_s_door(tmp_path):
    model, _, on = loaded("bert", tmp_path)
    layer = model.encoder.layer[0].attention.self.query
    layer.lora_dropout["default"] = nn.Dropout(0.1)
    with pytest.raises(Refusal, match=r"adapter\.dropout is 0\.1"):
        summed(model, on, state=0)

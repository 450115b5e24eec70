"""Before a charge: everything that private steps can fail by is tried on invented examples, at full length."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from client.steps.rehearsed import rehearse_privately, rehearse_task, require_moving
from client.steps.stepper import Pace
from client.steps.turn import Turn
from client.training import Protection, train_adapter_privately
from fedlora.adapters import set_trainable
from fedlora.adapters.live import parameters_of
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.config.preference import PreferenceSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.models.base import load_base
from fedlora.models.loaded_model import loaded_model
from fedlora.plugins.gate import open_to, opened_to
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.refusal import Code, Refusal
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from tests.chats import save_chat_model
from tests.privacy.architectures import loaded, save
from tests.privacy.shipped import PRIVATE_RECIPES, shipped
from tests.token_examples import token_examples

TRAIN = TrainSettings(optimizer="sgd", lr=0.1, batch_size=4, steps=2)
PACE = Pace(Turn(seed=0, client="a", number=1, rounds=1), sent=frozenset(), moments={})


def rehearse(model, parameters, on, *, train=TRAIN, padding=1, **options) -> None:
    rehearse_privately(model, parameters, train, on=on, padding=padding, **options)


def refused(match: str):
    return pytest.raises(Refusal, match=match)


@pytest.mark.parametrize("name", PRIVATE_RECIPES)
@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
def test_what_ships_passes(name, gradients):
    subject = shipped(name, examples=4)
    rehearse_privately(
        subject.model, subject.parameters, subject.recipe.train, on=subject.recipe.model,
        padding=subject.examples.padding, gradients=gradients,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt", "llama", "mixtral", "falcon"])
def test_supported_architectures_pass_at_full_length(name, checkpoint, dtype, tmp_path):
    rehearse(*loaded(name, tmp_path, gradient_checkpointing=checkpoint, dtype=dtype))


@pytest.mark.parametrize("name", ["deberta", "xlnet"])
def test_a_layer_that_is_not_given_one_row_an_example_is_refused(name, tmp_path):
    """DeBERTa projects its relative positions with the layers of the texts; XLNet puts the batch second."""
    with refused("dim 0 must be the 2 examples") as caught:
        rehearse(*loaded(name, tmp_path))
    assert caught.value.code is Code.UNSUPPORTED_MODEL


def test_a_padding_token_that_the_model_does_not_know_is_refused(tmp_path):
    with refused(r"pads with token 60, which is not in the model's vocabulary.*one of the model's own"):
        rehearse(*loaded("llama", tmp_path), padding=60)


def test_values_that_overflow_are_refused(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    with torch.no_grad():
        parameters[1].fill_(1e30)
    with refused("not finite, so that every example would count as zero"):
        rehearse(model, parameters, on)


class Mixes(nn.Module):
    """Adds the mean of the batch from some length or some batch size on."""

    def __init__(self, inner: nn.Module, *, tokens: int = 0, examples: int = 0) -> None:
        super().__init__()
        self.inner, self.tokens, self.examples = inner, tokens, examples

    def forward(self, x):
        y = self.inner(x)
        return y + y.mean(0, keepdim=True) if y.shape[1] >= self.tokens and y.shape[0] >= self.examples else y


@pytest.mark.parametrize("where", [{"tokens": 32}, {"examples": 4}])
def test_what_couples_examples_only_at_full_length_or_in_a_whole_microbatch_is_refused(where, tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    norm = model.encoder.layer[1].attention.output.LayerNorm
    model.encoder.layer[1].attention.output.LayerNorm = Mixes(norm, **where)
    with refused("depends on another one in its batch"):
        rehearse(model, parameters, on)


@pytest.mark.parametrize("task", ["preference", "unpaired-preference"])
@pytest.mark.parametrize(("where", "beta"), [({"tokens": 32}, 0.1), ({"examples": 4}, 1.0), ({}, 10.0)])
def test_a_loss_by_gains_on_the_base_hides_no_coupling(task, where, beta, tmp_path):
    """Far from the base KTO's loss is flat, and nothing would be seen of invented answers: theirs have a reference."""
    judged = PreferenceSettings(loss="kto", beta=beta)
    on = ModelSettings(id=save_chat_model(tmp_path / "chat"), task=task, max_tokens=40, preference=judged)
    home = loaded_model(on, AdapterSettings(r=2, alpha=2), ())
    parameters = set_trainable(home.model, (Factor.A, Factor.B))
    rehearse(home.model, parameters, on)
    layer = home.model.model.layers[1]
    layer.input_layernorm = Mixes(layer.input_layernorm, **where)
    with refused("depends on another one in its batch"):
        rehearse(home.model, parameters, on, train=TRAIN.model_copy(update={"batch_size": 5}))  # not tried before


@pytest.mark.parametrize(("share", "dtype"), [(0.01, "float32"), (0.001, "float32"), (0.03, "bfloat16")])
def test_a_gradient_that_another_batch_size_moves_is_refused(share, dtype, tmp_path):
    model, parameters, on = loaded("bert", tmp_path, dtype=dtype)

    def more(_, args, y):
        return y + share * (y.shape[0] > 1) * (y - y.detach())  # the loss does not show it

    model.head.register_forward_hook(more)
    with refused("the gradient of one example depends on another one in its batch"):
        rehearse(model, parameters, on)


@pytest.mark.parametrize(
    "train",
    [{"lr": float("inf")}, {"lr": 1e-12}, {"head_lr": 1e-12}, {"lr": 1e-12, "optimizer": "adamw"}],
    ids=["infinite", "tiny", "head", "adamw"],
)
def test_a_learning_rate_that_moves_nothing_is_refused_before_a_charge(train, tmp_path):
    model, parameters, _ = loaded("bert", tmp_path)
    require_moving(model, parameters, TRAIN, clip=1.0)
    with refused(r"does not change the weights.*set another train\.lr"):
        require_moving(model, parameters, TRAIN.model_copy(update=train), clip=1.0)
    with refused("does not change the weights"):
        require_moving(model, parameters, TRAIN, clip=1e-12)
    with refused(r"1e-10, the smallest of the schedule, with privacy\.clip 1\.0 does not change the weights"):
        require_moving(model, parameters, TRAIN, clip=1.0, least=1e-9)


class Breaks(nn.Module):
    def __init__(self, inner: nn.Module, error: Exception, *, tokens: int) -> None:
        super().__init__()
        self.inner, self.error, self.tokens = inner, error, tokens

    def forward(self, x):
        if x.shape[1] >= self.tokens:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize(("name", "steps"), [("LBFGS", False), ("SparseAdam", False), ("RMSprop", True)])
def test_an_optimiser_that_cannot_step_is_refused_before_a_charge(name, steps, tmp_path):
    model, _, on = loaded("bert", tmp_path)
    trained, opened = set_trainable(model, (Factor.A, Factor.B)), opened_to()
    before = [parameter.detach().clone() for parameter in trained]
    train = TRAIN.model_copy(update={"optimizer": f"torch.optim:{name}"})
    open_to("any")
    try:
        with nullcontext() if steps else refused(rf"torch\.optim:{name} cannot take a step.*another train\.optimizer"):
            rehearse_task(
                model, (Factor.A, Factor.B), train, on=on, privacy=PrivacySettings(epsilon=3.0), padding=1, rounds=2
            )
    finally:
        open_to(opened)
    assert all(map(torch.equal, trained, before))
    assert all(parameter.grad is None for parameter in trained)


def test_what_fails_at_full_length_alone_is_refused_with_the_way_out(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    output = model.encoder.layer[1].output
    output.dense = Breaks(output.dense, IndexError("index out of range"), tokens=30)
    with refused(r"cannot be trained on texts of 32 tokens: IndexError: index out of range; lower model\.max_tokens"):
        rehearse(model, parameters, on)


def test_too_little_memory_keeps_its_own_code(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    output = model.encoder.layer[1].output
    output.dense = Breaks(output.dense, RuntimeError("DefaultCPUAllocator: can't allocate memory"), tokens=30)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        rehearse(model, parameters, on)


def test_a_whole_microbatch_is_tried_once_a_process_and_the_values_every_time(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    rows: list[int] = []
    model.encoder.layer[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    rehearse(model, parameters, on)
    first = list(rows)
    rehearse(model, parameters, on)
    assert first.count(4) == 1
    whole = first.index(4)  # then its first example by itself
    assert first[whole + 1] == 1
    assert rows[len(first) :] == [*first[:whole], *first[whole + 2 :]]
    rehearse(model, parameters, on, train=TrainSettings(optimizer="sgd", lr=0.1, batch_size=6))
    assert rows.count(6) == 1


def test_a_rehearsal_leaves_nothing_behind(tmp_path):
    model, parameters, on = loaded("bert", tmp_path)
    model.train()
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    rehearse(model, parameters, on)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_after_a_rehearsal_not_every_draw_can_count_as_zero(tmp_path):
    """RoBERTa above its usable positions dropped 41 of 41 draws, and trained on noise: now it is not even loaded."""
    with pytest.raises(SettingsError, match=r"model\.max_tokens=33 is more than the 32 positions"):
        load_base(ModelSettings(id=save("roberta", tmp_path / "a"), max_tokens=33), ("a", "b"))
    model, parameters, on = loaded("roberta", tmp_path / "b")
    rehearse(model, parameters, on)
    stream = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 60, (length,), generator=stream) for length in (32, 32, 31, 20, 3)]
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=5.0)
    examples = token_examples(rows, torch.tensor([0, 1, 0, 1, 0]), 1)
    protection = Protection(mechanism, SeededSource(0))
    live = parameters_of(model, (Factor.A, Factor.B, Factor.DENSE))
    learned = train_adapter_privately(model, live, examples, TRAIN, on=on, protection=protection, pace=PACE)
    assert learned.loss is not None
    assert 0 < learned.loss < 10

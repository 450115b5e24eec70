"""The engine fails closed: everything for which one example's influence has no bound is a Refusal."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.refusal import Code, Refusal
from tests.privacy.models import Block, Examples, classifier


def step_once(model, loss, gradients: str = "fedlora") -> None:
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=4.0)
    engine = PrivateEngine(model, mechanism, examples=4, source=SeededSource(0), gradients=gradients)
    with engine:
        engine.step(loss)
        engine._steps = 0


def refuses(match: str):
    return pytest.raises(Refusal, match=match)


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
@pytest.mark.parametrize("name", ["embed.weight", "encoder.a.norm.weight"])
def test_a_trained_parameter_without_per_example_gradients(name, gradients):
    model = classifier()
    model.get_parameter(name).requires_grad_(True)
    with refuses(f"{name} trains but is not part of a plain") as caught:
        step_once(model, Examples(4).loss(model), gradients)
    assert caught.value.code is Code.UNSUPPORTED_MODEL
    assert type(model.head) is nn.Linear


def test_a_subclass_of_linear_is_not_trusted():
    class Odd(nn.Linear):
        pass

    model = classifier()
    model.head = Odd(12, 3)
    with refuses("head.weight trains but is not part of a plain"):
        step_once(model, Examples(4).loss(model))


def test_a_trained_parameter_in_half_precision():
    model = classifier(dtype=torch.bfloat16)
    with refuses("trains in torch.bfloat16, in which norms are wrong"):
        step_once(model, Examples(4).loss(model))


def test_dora():
    model = classifier()
    model.encoder = nn.ModuleDict({"a": Block(12)})
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["query"], use_dora=True), model.encoder)
    with refuses("DoRA"):
        step_once(model, Examples(4).loss(model))


@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
def test_a_parameter_that_is_also_used_outside_its_layer(gradients, share):
    model = classifier()
    plain = Examples(4).loss(model)
    with refuses("also used outside its layer"):
        step_once(model, lambda i: plain(i) + share * model.head.weight.square().sum(), gradients)


def test_batch_norm_without_running_statistics():
    model = classifier()
    model.add_module("statistics", nn.BatchNorm1d(12, affine=False, track_running_stats=False))
    with refuses("statistics has no running statistics and uses those of its batch"):
        step_once(model, Examples(4).loss(model))


def test_a_model_put_back_in_train_mode_within_the_engine():
    model = classifier()
    plain = Examples(4).loss(model)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=4.0)
    with (
        refuses("Classifier is in training mode, in which it may draw random numbers or mix examples"),
        PrivateEngine(model, mechanism, examples=4, source=SeededSource(0)) as engine,
    ):
        model.train()
        engine.step(plain)


@pytest.mark.parametrize("gradients", ["fedlora"])
def test_a_batch_that_is_not_first(gradients):
    model, examples = classifier(), Examples(4, tokens=5)

    def transposed(indices):
        x = model.embed(examples.tokens_nt[indices]).transpose(0, 1)
        return model.head(model.encoder["a"](x)).mean(0)[:, 0]

    with refuses("dim 0 must be the"):
        step_once(model, transposed, gradients)


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
@pytest.mark.parametrize(
    "mix",
    [
        lambda logits: logits - logits.mean(0, keepdim=True),
        lambda logits: logits @ logits.mT @ logits,
        lambda logits: logits.flip(0),
    ],
)
def test_a_loss_that_couples_examples(mix, gradients):
    model, examples = classifier(), Examples(4)

    def coupled(indices):
        logits = mix(model(examples.tokens_nt[indices]))
        return functional.cross_entropy(logits, examples.labels_n[indices], reduction="none")

    with refuses("depends on another one"):
        step_once(model, coupled, gradients)


def test_a_token_mean_over_the_batch_couples_examples():
    """What `labels=` does in a causal model: each example's loss divided by everybody's token count."""
    model, examples = classifier(), Examples(4)

    def token_mean(indices):
        losses = functional.cross_entropy(
            model(examples.tokens_nt[indices]), examples.labels_n[indices], reduction="none"
        )
        return losses.mean().expand(len(indices))

    with refuses("depends on another one"):
        step_once(model, token_mean)


def test_a_loss_that_is_scaled_by_its_company_is_refused_also_under_dropout():
    """No gradient shows this coupling: each loss is divided by what all examples of the batch have together."""
    model = classifier()
    model.encoder["a"].query.lora_dropout["default"] = nn.Dropout(0.5)
    plain = Examples(4).loss(model)
    step_once(model, plain)
    with refuses("changes with the other examples"):
        step_once(model, lambda indices: plain(indices) / len(indices))
    assert model.encoder["a"].query.lora_dropout["default"].training


@pytest.mark.parametrize("reduce", [torch.mean, lambda losses: losses[:, None], lambda losses: losses[:1]])
def test_a_loss_that_is_not_one_per_example(reduce):
    model = classifier()
    plain = Examples(4).loss(model)
    with refuses("one loss per example"):
        step_once(model, lambda indices: reduce(plain(indices)))


def test_a_layer_that_no_example_reaches():
    model, examples = classifier(), Examples(4)
    with refuses("trains but has no gradient per example"):
        step_once(model, lambda i: model.head(model.embed(examples.tokens_nt[i]).mean(1)).square().sum(1))


def test_training_outside_of_step():
    model = classifier()
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=4.0)
    with refuses("outside engine.step"), PrivateEngine(model, mechanism, examples=4, source=SeededSource(0)):
        Examples(4).loss(model)(torch.arange(4)).sum().backward()


def test_nothing_to_train():
    model = classifier(trains="")
    with refuses("nothing trains"):
        step_once(model, Examples(4).loss(model))


def test_evaluation_inside_the_engine_is_allowed():
    model, examples = classifier(), Examples(4)
    expected = model(examples.tokens_nt)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=4.0)
    with PrivateEngine(model, mechanism, examples=4, source=SeededSource(0)), torch.no_grad():
        assert torch.equal(model(examples.tokens_nt), expected)

"""What a task takes from the base as it was loaded: W0 whatever was folded in, once, and no example makes it fail."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from fedlora.adapters import set_trainable
from fedlora.adapters.inject import adapted_layers
from fedlora.adapters.merge import fold
from fedlora.adapters.untouched import untouched
from fedlora.config import ModelSettings
from fedlora.data.examples import Examples, digest_of
from fedlora.lowrank import Product
from fedlora.models.reference import referred
from fedlora.settings import parse
from fedlora.tasks.base import Batch, Item
from fedlora.tasks.preference import Preference, says_something
from fedlora.tasks.registry import task_named
from fedlora.updates import Factor
from tests.fedlora.tasks.test_preference import ON, adapted, pairs


class Watched(Preference):
    """Preference training that counts its passes, and fails where it is told to."""

    def __init__(self, *, fails_on: int | None = None, not_finite: int | None = None) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.fails_on, self.not_finite = fails_on, not_finite

    def reference(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(len(batch["labels"]))
        assert not torch.is_grad_enabled()
        tokens = batch["input_ids"]
        if self.fails_on is not None and (tokens == self.fails_on).any():
            raise RuntimeError("secret")
        found = super().reference(model, batch)["reference"]
        bad = torch.zeros(len(tokens), dtype=torch.bool) if self.not_finite is None else (
            tokens == self.not_finite).any(1)  # fmt: skip
        return {"reference": found.masked_fill(bad[:, None], torch.nan)}


def moved(model: nn.Module) -> None:
    """What FedEx-LoRA and FLoRA do: another base."""
    total = {}
    for name, layer in adapted_layers(model):
        m, n = layer.get_base_layer().weight.shape
        total[name] = Product(torch.ones(m, 1) * 0.1, torch.ones(1, n) * 0.1)
    fold(model, total)


def values(examples: Examples) -> Tensor:
    return torch.stack([item["reference"] for item in examples.items])


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_under_a_moved_base_the_reference_is_still_the_base_as_it_was_loaded():
    stood, model = adapted(), adapted()
    moved(model)
    before = state(model)
    found = referred(model, Examples(pairs(), Preference(), 0), on=ON, at_once=4)
    assert torch.equal(values(found), values(referred(stood, Examples(pairs(), Preference(), 0), on=ON, at_once=4)))
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_the_model_is_what_it_was_and_trains_what_it_did_also_after_a_failure():
    model = adapted()
    moved(model)
    set_trainable(model, (Factor.B,))
    before, ids = state(model), torch.tensor([[3, 4, 5]])
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        answer = model(input_ids=ids).logits
    model.train()
    with pytest.raises(RuntimeError, match="secret"):
        referred(model, Examples(pairs(), Watched(fails_on=5), 0), on=ON, at_once=4)
    assert model.training
    model.eval()
    with untouched(model), torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, answer)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, answer)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trains
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_it_is_computed_once_for_a_model_and_the_examples_themselves_stay_as_they_are():
    model, task = adapted(), Watched()
    examples = Examples(pairs(), task, 0)
    digest = digest_of(examples)
    drawn = referred(model, examples, on=ON, at_once=2, only=[2, 0, 2])
    assert sum(task.seen) == 2
    assert ["reference" in item for item in drawn.items] == [True, False, True, False]
    first = referred(model, examples, on=ON, at_once=2)
    passes = list(task.seen)
    assert sum(passes) == 4
    assert torch.equal(values(referred(model, examples, on=ON, at_once=2)), values(first))
    assert task.seen == passes
    referred(adapted(), examples, on=ON, at_once=2)
    assert sum(task.seen) == 8
    assert digest_of(examples) == digest
    assert not values(first).requires_grad


def test_a_task_that_takes_nothing_gets_its_examples_back():
    item = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])}
    examples = Examples([item], task_named("causal-lm"), 0)
    assert referred(adapted(), examples, on=parse(ModelSettings, {}), at_once=1) is examples


@pytest.mark.parametrize("way", ["fails_on", "not_finite"])
def test_a_pair_without_a_reference_is_ignored_by_a_site_under_privacy_and_moves_no_other(way, caplog):
    model, plain = adapted(), pairs()
    only = sorted(set(plain[1]["input_ids"].tolist()) - {n for i in (0, 2, 3) for n in tokens_of(plain[i])})[0]
    with caplog.at_level(logging.ERROR):
        found = referred(model, Examples(plain, Watched(**{way: only}), 0), on=ON, at_once=4, each=True)
    assert [says_something(item) for item in found.items] == [True, False, True, True]
    with torch.no_grad():
        losses = found.task.losses(model, found.batch(range(4)))
    assert losses[1] == 0
    assert losses.isfinite().all()
    expected = values(referred(model, Examples(plain, Preference(), 0), on=ON, at_once=4, each=True))
    torch.testing.assert_close(values(found)[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-5, rtol=1e-6)


def tokens_of(item: Item) -> list[int]:
    return [*item["input_ids"].tolist(), *item["rejected_input_ids"].tolist()]


def test_a_token_that_the_model_does_not_know_is_a_pair_that_is_ignored_under_privacy():
    strange = pairs()
    strange[2]["rejected_input_ids"][-1] = 10_000
    found = referred(adapted(), Examples(strange, Preference(), 0), on=ON, at_once=4, each=True)
    assert [says_something(item) for item in found.items] == [True, True, False, True]

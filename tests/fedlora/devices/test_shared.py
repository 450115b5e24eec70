"""One memory for the frozen weights of several models of a process, and nothing else in common."""

from __future__ import annotations

import pytest
import torch
from transformers import BertModel

from fedlora.adapters import set_trainable
from fedlora.adapters.untouched import untouched
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.devices.shared import weights_of
from fedlora.lowrank import Product
from fedlora.models import loaded_model as module
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.tasks.registry import task_named
from fedlora.updates import Factor

LABELS = ("bad", "good")


@pytest.fixture(autouse=True)
def nothing_loaded():
    loaded_model.cache_clear()
    module._HELD.clear()
    yield
    loaded_model.cache_clear()


def of_rank(folder: str, r: int, **settings) -> LoadedModel:
    return loaded_model(
        ModelSettings(id=folder, **{"max_tokens": 16, **settings}), AdapterSettings(r=r, alpha=4), LABELS
    )


def memory(home: LoadedModel) -> dict[str, int]:
    return {name: weight.data_ptr() for name, weight in weights_of(home.model).items()}


def residual(home: LoadedModel) -> dict[str, Product]:
    m, n = home.template.layers[name := sorted(home.template.layers)[0]].shape
    return {name: Product(torch.ones(m, 1, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64))}


def test_ranks_and_lengths_of_one_base_have_its_memory_once(tiny_model):
    first, second = of_rank(tiny_model, 2), of_rank(tiny_model, 3, max_tokens=12)
    assert memory(first) == memory(second)
    assert len(memory(first)) > 10
    assert not any("lora" in name or name.startswith("head") for name in memory(first))


def test_other_weights_share_nothing(tiny_model, tmp_path):
    first, second = of_rank(tiny_model, 2), of_rank(tiny_model, 2, load_dtype="bfloat16")
    assert not set(memory(first).values()) & set(memory(second).values())
    other = BertModel.from_pretrained(tiny_model)
    with torch.no_grad():
        other.embeddings.word_embeddings.weight[0, 0] += 1
    first.base.processor.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    assert not set(memory(first).values()) & set(memory(of_rank(str(tmp_path), 2)).values())


def test_what_trains_is_each_model_s_own(tiny_model):
    homes = [of_rank(tiny_model, 2), of_rank(tiny_model, 3)]
    own = [{p.data_ptr() for p in set_trainable(home.model, tuple(Factor))} for home in homes]
    assert not own[0] & own[1]
    assert not set(memory(homes[0]).values()) & own[0]


def test_a_module_of_the_base_that_one_task_trains_whole_is_its_own(tiny_model, monkeypatch):
    """Shared, each step would move the base that the other model's fingerprint is of."""
    frozen, task = of_rank(tiny_model, 2), task_named("sequence-classification")
    monkeypatch.setattr(type(task), "dense", (*task.dense, "encoder.layer.1.output.dense"))
    training = of_rank(tiny_model, 3)
    own = {p.data_ptr() for p in set_trainable(training.model, tuple(Factor))}
    assert not set(memory(frozen).values()) & own
    assert set(memory(frozen).values()) & set(memory(training).values())


def test_a_base_that_one_model_moves_stays_where_it_is_for_the_others(tiny_model):
    moved, other = of_rank(tiny_model, 2), of_rank(tiny_model, 3)
    before = {name: weight.clone() for name, weight in weights_of(other.model).items()}
    moved.at_version("run", 1, residual(moved))
    name = sorted(moved.template.layers)[0]
    weight = moved.model.get_submodule(name).base_layer.weight
    assert torch.equal(weight, before[f"{name}.weight"] + 1)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(other.model).items())
    assert torch.equal(other.model.get_submodule(name).base_layer.weight, before[f"{name}.weight"])
    with untouched(moved.model):
        assert torch.equal(weight, before[f"{name}.weight"])
    assert torch.equal(weight, before[f"{name}.weight"] + 1)
    third = of_rank(tiny_model, 4)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(third.model).items()), "W0 is shared"
    moved.at_version("run", 0, {})
    assert memory(moved) == memory(other)
    assert torch.equal(weight, before[f"{name}.weight"])

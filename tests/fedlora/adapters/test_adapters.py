"""Adapters in live models: detection, initialisation, reading and writing, folding residuals into the base."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from fedlora.adapters import fold, initial_adapter, inject, read, set_trainable, unfold, write
from fedlora.adapters.inject import ADAPTER, adapted_layers, target_names
from fedlora.config import AdapterSettings
from fedlora.lowrank import Product
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from tests.privacy.architectures import save
from tests.token_examples import logits

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def with_random_factors(adapter):
    torch.manual_seed(1)
    return adapter.with_tensors({name: 0.3 * torch.randn_like(t) for name, t in adapter.tensors().items()})


def test_targets_are_detected_whatever_the_model_calls_them(tiny_bert, tiny_gpt2):
    inject(tiny_bert, AdapterSettings(r=2))
    inject(tiny_gpt2, AdapterSettings(r=2))
    assert {name.rpartition(".")[2] for name in read(tiny_bert).layers} == {"query", "value"}
    assert {name.rpartition(".")[2] for name in read(tiny_gpt2).layers} == {"c_attn"}


def test_an_unknown_target_is_refused_with_the_names_that_exist(tiny_bert):
    with pytest.raises(SettingsError, match=r"matches no matrix.*query"):
        inject(tiny_bert, AdapterSettings(targets=("nonsense",)))


def test_an_attention_that_is_no_layer_is_named_with_what_could_be_adapted(tmp_path):
    encoder = AutoModel.from_pretrained(save("xlnet", tmp_path))
    with pytest.raises(
        SettingsError, match=r"r_r_bias.* of its XLNetRelativeAttention are plain parameters.*layer_1, layer_2\. Name"
    ):
        inject(encoder, AdapterSettings(r=2))
    with pytest.raises(SettingsError, match="no linear layers, so nothing in it can be adapted"):
        inject(nn.Sequential(nn.LayerNorm(4)), AdapterSettings(r=2))


def test_what_a_fused_scan_reads_past_its_layer_is_not_adapted(tmp_path, caplog):
    """In training Mamba's mixer takes the weights out of these layers: an adapter beside them has no gradient."""
    encoder = AutoModel.from_pretrained(save("mamba", tmp_path))
    with pytest.raises(SettingsError, match=r"layers\.0\.mixer\.x_proj would never train.*name others \(in_proj\)"):
        inject(encoder, AdapterSettings(r=2, targets=("x_proj",)))
    inject(encoder, AdapterSettings(r=2, targets="all-linear"))
    assert "all-linear leaves out 6 matrices like layers.0.mixer.x_proj" in caplog.text
    assert {name.rpartition(".")[2] for name, _ in adapted_layers(encoder)} == {"in_proj"}
    encoder.train()(input_ids=torch.tensor([[3, 4, 5]])).last_hidden_state.sum().backward()
    assert all(layer.lora_B[ADAPTER].weight.grad is not None for _, layer in adapted_layers(encoder))


def test_all_linear_leaves_out_the_pooler_and_layers_can_be_chosen(tiny_bert):
    inject(tiny_bert, AdapterSettings(r=2, targets="all-linear", layers=(1,)))
    names = read(tiny_bert).layers
    assert len(names) == 6
    assert all("layer.1." in name and "pooler" not in name for name in names)


@pytest.mark.parametrize("kind", ["lora", "lora_xs"])
def test_an_initial_adapter_changes_nothing_and_depends_on_the_seed_alone(tiny_bert, kind):
    settings = AdapterSettings(r=2, kind=kind)
    before = tiny_bert(IDS, MASK).last_hidden_state
    inject(tiny_bert, settings)
    torch.manual_seed(99)
    first = initial_adapter(tiny_bert, settings, seed=7)
    torch.manual_seed(100)
    second = initial_adapter(tiny_bert, settings, seed=7)
    other = initial_adapter(tiny_bert, settings, seed=8)
    write(tiny_bert, first)
    assert_close(tiny_bert(IDS, MASK).last_hidden_state, before)
    assert all(torch.equal(t, second.tensors()[name]) for name, t in first.tensors().items())
    assert not torch.equal(next(iter(first.layers.values())).A_rn, next(iter(other.layers.values())).A_rn)


def test_layers_start_from_different_factors(tiny_bert):
    settings = AdapterSettings(r=2)
    inject(tiny_bert, settings)
    first, second, *_ = initial_adapter(tiny_bert, settings, seed=0).layers.values()
    assert not torch.equal(first.A_rn, second.A_rn)


def test_injecting_leaves_the_global_random_stream_alone(tiny_bert):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    inject(tiny_bert, AdapterSettings(r=2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("model_name", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("kind", ["lora", "lora_xs"])
def test_what_is_written_is_read_back_and_acts_as_delta_w(request, model_name, kind):
    model = request.getfixturevalue(model_name)
    settings = AdapterSettings(r=2, alpha=6.0, kind=kind)
    inject(model, settings)
    adapter = with_random_factors(read(model))
    write(model, adapter)
    assert all(torch.equal(t, adapter.tensors()[name]) for name, t in read(model).tensors().items())

    with_adapter = logits(model, IDS, MASK)
    silent = adapter.with_tensors({n: torch.zeros_like(t) for n, t in adapter.tensors([Factor.B]).items()})
    write(model, silent)
    fold(
        model,
        {name: Product(layer.dense(), torch.eye(layer.shape[1]).double()) for name, layer in adapter.layers.items()},
    )
    assert_close(logits(model, IDS, MASK), with_adapter, atol=1e-5, rtol=1e-5)


def test_scale_is_alpha_over_r_or_over_its_root(tiny_bert, tiny_gpt2):
    inject(tiny_bert, AdapterSettings(r=4, alpha=6.0))
    inject(tiny_gpt2, AdapterSettings(r=4, alpha=6.0, rslora=True))
    assert next(iter(read(tiny_bert).layers.values())).scale == pytest.approx(1.5)
    assert next(iter(read(tiny_gpt2).layers.values())).scale == pytest.approx(3.0)


def test_folding_twice_applies_a_residual_once_and_unfold_restores_the_bits(tiny_bert):
    inject(tiny_bert, AdapterSettings(r=2))
    before = logits(tiny_bert, IDS, MASK)
    name = next(iter(read(tiny_bert).layers))
    total = {name: Product(torch.arange(16.0).double()[:, None], torch.arange(16.0).double()[None])}
    fold(tiny_bert, total)
    once = logits(tiny_bert, IDS, MASK)
    fold(tiny_bert, total)
    assert torch.equal(logits(tiny_bert, IDS, MASK), once)
    assert not torch.allclose(once, before)
    unfold(tiny_bert)
    assert torch.equal(logits(tiny_bert, IDS, MASK), before)


def test_small_residuals_do_not_vanish_in_a_bf16_base(tiny_bert):
    inject(tiny_bert, AdapterSettings(r=2))
    name = next(iter(read(tiny_bert).layers))
    weight = tiny_bert.get_submodule(name).get_base_layer().weight
    weight.data = weight.data.to(torch.bfloat16)
    original = weight.detach().float().clone()
    step = Product(torch.full((16, 1), 1e-4).double(), torch.ones(1, 16).double())
    for rounds in range(1, 101):
        fold(tiny_bert, {name: Product(step.U_mp * rounds, step.V_pn)})
    assert_close(weight.float() - original, torch.full((16, 16), 1e-2), atol=2e-3, rtol=0)


def test_an_adapter_for_another_model_is_refused_before_anything_changes(tiny_bert, tiny_gpt2):
    inject(tiny_bert, AdapterSettings(r=2))
    inject(tiny_gpt2, AdapterSettings(r=2))
    before = read(tiny_bert)
    with pytest.raises(ValueError, match="does not fit the model"):
        write(tiny_bert, read(tiny_gpt2))
    assert all(torch.equal(t, before.tensors()[name]) for name, t in read(tiny_bert).tensors().items())


@pytest.mark.parametrize(
    ("kind", "factors", "count"),
    [
        ("lora", {Factor.A, Factor.B}, 8),
        ("lora", {Factor.B}, 4),
        ("lora_xs", {Factor.R}, 4),
        ("lora", {Factor.B, Factor.DENSE}, 6),
    ],
)
def test_only_the_chosen_factors_train(tiny_bert, kind, factors, count):
    inject(tiny_bert, AdapterSettings(r=2, kind=kind))
    parameters = set_trainable(tiny_bert, factors)
    assert len(parameters) == count
    assert {id(p) for p in parameters} == {id(p) for p in tiny_bert.parameters() if p.requires_grad}


def test_all_linear_says_which_experts_it_leaves_out(tmp_path, caplog):
    """transformers holds a mixture's experts in one tensor: no linear layers, whatever the name promises."""
    mixture = AutoModel.from_pretrained(save("mixtral", tmp_path))
    inject(mixture, AdapterSettings(r=2, targets="all-linear"))
    assert "does not adapt the experts of layers.0.mlp.experts" in caplog.text


def test_deberta_s_attention_is_attention(tmp_path):
    deberta = AutoModel.from_pretrained(save("deberta", tmp_path))
    names = target_names(deberta, AdapterSettings(r=2))
    assert {name.rpartition(".")[2] for name in names} == {"query_proj", "value_proj"}

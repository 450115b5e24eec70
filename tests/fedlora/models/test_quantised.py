"""Bases of 4 and 8 bits: which base each is, what it computes, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from fedlora.adapters import inject, read, set_trainable, write
from fedlora.adapters.inject import adapted_shapes
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.base import Base, autocast, load_base, outline
from fedlora.models.given import given_model
from fedlora.models.loaded_model import loaded_model
from fedlora.models.quantised.scheme import in_floats
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from tests.chats import save_chat_model, tokenizer_with
from tests.federations import save_tiny_model
from tests.quantised import NEEDS_BITSANDBYTES

EVERYWHERE = AdapterSettings(r=2, alpha=3.0, targets="all-linear")
IDS_BT = torch.tensor([[1, 5, 9, 7, 30, 2], [3, 8, 8, 12, 4, 6]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("quantised") / "model")


def settings(folder: str, load_dtype: str = "nf4") -> ModelSettings:
    return ModelSettings(id=folder, task="causal-lm", max_tokens=48, load_dtype=load_dtype)


def adapted(base: Base) -> nn.Module:
    """With an adapter whose every factor has a gradient."""
    inject(base.model, EVERYWHERE)
    set_trainable(base.model, (Factor.A, Factor.B))
    stream, start = torch.Generator().manual_seed(0), read(base.model)
    moved = {name: torch.randn(tensor.shape, generator=stream) / 4 for name, tensor in start.tensors().items()}
    write(base.model, start.with_tensors(moved))
    return base.model


def step(model: nn.Module) -> tuple[float, Tensor]:
    """The loss of two texts, and the gradient of everything that trains."""
    model.zero_grad()
    logits_btv = model(input_ids=IDS_BT).logits[:, :-1].flatten(0, 1)
    loss = nn.functional.cross_entropy(logits_btv, IDS_BT[:, 1:].flatten())
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@NEEDS_BITSANDBYTES
def test_each_way_to_hold_a_base_is_another_base_and_the_same_one_everywhere(folder, tmp_path):
    held = {dtype: load_base(settings(folder, dtype), ()) for dtype in ("float32", "bfloat16", "nf4", "int8")}
    assert len({base.fingerprint for base in held.values()}) == 4
    assert len({tuple(base.parts.items()) for base in held.values()}) == 1, "what differs is how weights are held"
    again = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again.save_pretrained(tmp_path)
    for dtype in ("nf4", "int8"):
        assert load_base(settings(str(tmp_path), dtype), ()).fingerprint == held[dtype].fingerprint
    with torch.no_grad():
        again.model.layers[1].mlp.down_proj.weight[3, 4] += 1.0
    again.save_pretrained(tmp_path)
    for dtype in ("nf4", "int8"):
        assert load_base(settings(str(tmp_path), dtype), ()).fingerprint != held[dtype].fingerprint


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_only_matrices_of_linear_layers_are_quantised_and_an_adapter_has_their_unpacked_shapes(folder, load_dtype):
    base, plain = load_base(settings(folder, load_dtype), ()), load_base(settings(folder, "float32"), ())
    shapes = adapted_shapes(base.model, EVERYWHERE)
    assert shapes == adapted_shapes(plain.model, EVERYWHERE) == adapted_shapes(outline(settings(folder)), EVERYWHERE)
    floats = {name: p.dtype for name, p in base.model.named_parameters() if name.removesuffix(".weight") not in shapes}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= floats.keys()
    assert set(floats.values()) == {torch.float32}
    model = adapted(base)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert {name: layer.shape for name, layer in read(model).layers.items()} == shapes


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_a_step_is_that_of_the_same_base_in_floats_in_every_mode(folder, load_dtype):
    """bitsandbytes' own int8 rounds inputs too, but not in training on a CPU; its nf4 goes to bfloat16 in evaluation on
    some."""
    held = adapted(load_base(settings(folder, load_dtype), ()))
    floats = load_base(settings(folder, load_dtype), ())
    in_floats(floats.model)
    assert not any(type(module) is not nn.Linear for module in floats.model.modules() if isinstance(module, nn.Linear))
    loss, gradient = step(adapted(floats))
    for mode in (held.train(), held.eval()):
        found, direction = step(mode)
        assert found == pytest.approx(loss, abs=1e-5)
        assert float(nn.functional.cosine_similarity(direction, gradient, dim=0)) >= 0.99999
        with torch.no_grad():
            torch.testing.assert_close(mode(input_ids=IDS_BT).logits, floats.model(input_ids=IDS_BT).logits)


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_no_use_of_it_changes_a_weight_or_says_a_word(folder, load_dtype, caplog, capfd):
    base = load_base(settings(folder, load_dtype), ())
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    with torch.inference_mode():
        base.model(input_ids=IDS_BT)
        base.model(input_ids=IDS_BT[:1, :1])
    step(base.model.train())
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not caplog.records
    assert capfd.readouterr().err == ""


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_what_a_row_gives_does_not_depend_on_outliers_of_another(folder, load_dtype):
    """LLM.int8 would take a column out of the product wherever one row of the batch is above 6 in it."""
    base = load_base(settings(folder, load_dtype), ())
    layer = base.model.get_submodule("model.layers.0.mlp.up_proj")
    x_bi = torch.linspace(-1, 1, 32).reshape(2, 16)
    loud_bi = x_bi.clone()
    loud_bi[1, 3] = 1e4
    assert torch.equal(layer(x_bi)[0], layer(loud_bi)[0])


@NEEDS_BITSANDBYTES
def test_a_classifier_stays_in_floats_on_a_quantised_encoder(tmp_path):
    on = ModelSettings(id=save_tiny_model(tmp_path / "bert"), max_tokens=16, load_dtype="nf4")
    base = load_base(on, ("bad", "good"))
    assert base.model.get_submodule("head").weight.dtype == torch.float32
    assert base.model.get_submodule("encoder.layer.0.attention.self.query").weight.dtype == torch.uint8


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_with_biases_and_under_autocast_it_computes_what_the_same_base_in_floats_does(tmp_path, load_dtype):
    on = ModelSettings(id=save_tiny_model(tmp_path / "bert"), max_tokens=16, load_dtype=load_dtype, dtype="bfloat16")
    held, floats = (load_base(on, ("bad", "good")).model for _ in range(2))
    in_floats(floats)
    with autocast(on):
        found, expected = (model(input_ids=IDS_BT % 16).last_hidden_state for model in (held, floats))
    torch.testing.assert_close(found, expected)
    found.float().square().sum().backward()
    expected.float().square().sum().backward()
    gradients = [model.get_submodule("embeddings.word_embeddings").weight.grad for model in (held, floats)]
    torch.testing.assert_close(*gradients, rtol=2**-6, atol=2**-6 * float(gradients[1].abs().max()))


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("load_dtype", ["nf4", "int8"])
def test_a_matrix_that_an_architecture_holds_the_other_way_round_comes_back_so(tmp_path, load_dtype):
    """GPT-2's Conv1D."""
    tokenizer = tokenizer_with()
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    held = load_base(settings(str(tmp_path), load_dtype), ()).model
    plain = load_base(settings(str(tmp_path), "float32"), ()).model
    assert adapted_shapes(held, EVERYWHERE) == adapted_shapes(plain, EVERYWHERE)
    expected = held(input_ids=IDS_BT).logits
    in_floats(held)
    torch.testing.assert_close(held(input_ids=IDS_BT).logits, expected)
    own = {name: (type(module), module.weight.shape) for name, module in plain.named_modules() if is_matrix(module)}
    assert own == {
        name: (type(module), module.weight.shape) for name, module in held.named_modules() if is_matrix(module)
    }


def is_matrix(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


@NEEDS_BITSANDBYTES
def test_it_is_loaded_once_whoever_asks(folder):
    adapter = AdapterSettings(r=2)
    assert loaded_model(settings(folder), adapter, ()) is loaded_model(settings(folder), adapter, ())


def test_without_the_package_the_error_says_the_line_that_installs_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python notes a package that is not there
    with pytest.raises(SettingsError, match=r"nf4 needs the package bitsandbytes.*pip install 'fedlora\[quantised\]'"):
        load_base(settings(folder), ())


@NEEDS_BITSANDBYTES
def test_what_is_quantised_already_or_given_as_an_object_is_refused(folder, tmp_path):
    bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=bits, device_map={"": "cpu"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(tmp_path / "packed")
    tokenizer.save_pretrained(tmp_path / "packed")
    with pytest.raises(SettingsError, match="is quantised already"):
        load_base(settings(str(Path(tmp_path / "packed"))), ())
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with given_model(plain, tokenizer) as name, pytest.raises(SettingsError, match="was given as an object"):
        load_base(settings(name), ())

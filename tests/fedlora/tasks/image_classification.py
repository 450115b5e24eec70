"""Image classification as a task: the model's own classifier trains whole. Small; held by the registry's tests."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AutoModelForImageClassification

from fedlora.tasks.base import IGNORED, SAMPLES, Loaded, Mean
from fedlora.tasks.guessing import ACCURACY, Guessing
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.usage import Usage

CLASSIFIER = "classifier"
USAGE = Usage(
    auto="AutoModelForImageClassification",
    imports=(),
    examples="pixels = torch.ones(1, 3, 16, 16)",
    lines="""with torch.inference_mode():
    logits = model(pixel_values=pixels).logits
labels = {labels}
print([labels[number] for number in logits.argmax(-1).tolist()])
""",
    owns_dense=True,
)


class ImageClassification(Pretrained):
    dense = (CLASSIFIER,)
    compare_by = ACCURACY
    metrics = (ACCURACY,)
    usage = USAGE

    auto = AutoModelForImageClassification

    def load(self, source, *, outputs, **options):
        loaded = super().load(source, outputs=outputs, num_labels=outputs, ignore_mismatched_sizes=True, **options)
        return Loaded(loaded.model, tuple(name for name in loaded.missing if not name.startswith(CLASSIFIER)))

    def prepare(self, model, *, longest, outputs):
        model(self.sample(model, longest=longest, padding=0)[0]["pixel_values"][None])

    def encode(self, rows, processor, labels, *, longest, padding, each):
        numbers = {label: number for number, label in enumerate(labels)}
        pixels = [processor(row["image"])["pixel_values"] for row in rows]
        return [
            {"pixel_values": image, "labels": torch.tensor(numbers[row.label])}
            for image, row in zip(pixels, rows, strict=True)
        ]

    def collate(self, items, *, padding, length=0):
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def length(self, item):
        return 1

    def losses(self, model, batch):
        return functional.cross_entropy(model(batch["pixel_values"]).logits.float(), batch["labels"], reduction="none")

    def measure(self, model, batch):
        logits_bc, count = model(batch["pixel_values"]).logits.float(), len(batch["labels"])
        loss_b = functional.cross_entropy(logits_bc, batch["labels"], reduction="none")
        right = float((logits_bc.argmax(-1) == batch["labels"]).sum())
        return {"loss": Mean(float(loss_b.sum()), count), "accuracy": Mean(right, count)}

    def judge(self, items, labels):
        return Guessing.on((int(item["labels"]) for item in items), classes=len(labels))

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

"""One class an image: what a vision transformer makes of it, normalised, and a linear head that starts at zero.

    features (b, 2d) = normalise([first position; mean of the others])         logits (b, c) = head(features)

The first position is ViT's and DINOv2's class token. Each half is normalised over its d numbers, without weights of its
own: what comes out of a frozen model has whatever size it had in pretraining, and one learning rate must fit all.
A head that starts at zero answers with all classes alike; from a drawn one, rates that move the adapters overshoot.
Shapes: b images, s positions, d hidden units, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel

from fedlora.data.images.decoding import image_of
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED, SAMPLES, Batch, Item, Loaded
from fedlora.tasks.classes import HEAD, OverClasses, numbers_of
from fedlora.tasks.inputs.by_itself import by_itself
from fedlora.tasks.inputs.pixels import image_processor, pixels_of, sides_of
from fedlora.tasks.pretrained import Pretrained
from fedlora.tasks.usage import Usage

USAGE = Usage(
    auto="AutoModel",
    imports=(
        "from PIL import Image",
        "from safetensors.torch import load_file",
        "from transformers import AutoImageProcessor",
    ),
    examples='files = ["one.png"]',
    lines="""processor = AutoImageProcessor.from_pretrained(base, backend="pil"{at})
head = load_file(f"{{folder}}/head.safetensors")
pixels = torch.cat([processor(Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"] for file in files])
with torch.inference_mode():
    hidden = model(pixel_values=pixels).last_hidden_state.float()
    halves = [torch.nn.functional.layer_norm(half, half.shape[-1:]) for half in (hidden[:, 0], hidden[:, 1:].mean(1))]
    logits = torch.cat(halves, dim=-1) @ head["weight"].T + head["bias"]
labels = {labels}
print([labels[number] for number in logits.argmax(-1).tolist()])
""",
)


class ImageClassification(OverClasses, Pretrained):
    """The model is any that `AutoModel` loads and that gives (b, s, d) for images, with `head` beside its own layers.

    Batches are pixel_values (b, channels, height, width) and labels (b,). No image is varied by chance.
    """

    zeros: tuple[str, ...] = (HEAD,)
    usage = USAGE

    auto = AutoModel

    def load(self, source: str, *, outputs: int, **options: Any) -> Loaded:
        """Without the pooler, which is not used. `config.image_size` becomes what the processor makes: many models read
        other sizes than that of their pretraining, and these are what is tried on them (`sample`)."""
        loaded = super().load(source, outputs=outputs, **options)
        reader: Any = loaded.model
        if isinstance(getattr(reader, "pooler", None), nn.Module):
            reader.register_module("pooler", None)
        reader.config.image_size = sides_of(self.processor(source, model_id=source))
        return Loaded(reader, tuple(name for name in loaded.missing if not name.startswith("pooler.")))

    def processor(self, source: str, *, model_id: str) -> Any:
        return image_processor(source, model_id=model_id)

    def padding(self, processor: Any) -> int:
        return 0

    def prepare(self, model: nn.Module, *, longest: int, outputs: int) -> None:
        kind = type(model).__name__
        if hasattr(model, HEAD):
            raise SettingsError(f"a {kind} has a module `{HEAD}` of its own; choose another model.")
        try:
            with torch.no_grad():
                hidden = self._hidden(model)
        except Exception as error:
            raise SettingsError(
                f"a {kind} cannot read the images that its image processor makes ({type(error).__name__}); mend its "
                "preprocessor_config.json, or choose a vision transformer."
            ) from None
        if hidden.ndim != 3 or hidden.shape[1] < 2:
            raise SettingsError(f"a {kind} is no vision transformer (ViT, DINOv2): it gives {tuple(hidden.shape)}.")
        head = nn.Linear(2 * int(hidden.shape[-1]), outputs)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model.add_module(HEAD, head)

    def encode(
        self, rows: Sequence[Row], processor: Any, labels: Sequence[str], *, longest: int, padding: int, each: bool
    ) -> list[Item]:
        """SettingsError on a class that is not in `labels`, and on what is no image; with `each`, such a row is
        ignored."""
        numbers = numbers_of(rows, labels, each=each)

        def make(row: Row) -> Item:
            pixels = pixels_of(image_of(row.image("image")), processor)
            return {"pixel_values": pixels, "labels": torch.tensor(numbers.get(row["label"], IGNORED))}

        def nothing() -> Item:
            return {"pixel_values": torch.zeros(3, *sides_of(processor)), "labels": torch.tensor(IGNORED)}

        return by_itself(rows, make, nothing, each=each)

    def collate(self, items: Sequence[Item], *, padding: int, length: int = 0) -> Batch:
        return {name: torch.stack([item[name] for item in items]) for name in ("pixel_values", "labels")}

    def length(self, item: Item) -> int:
        return 1

    def positions(self, model: nn.Module, *, longest: int) -> int:
        """As many as it has: every layer of a vision transformer has the same."""
        with torch.no_grad():
            return int(self._hidden(model).shape[1])

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return logits_of(model, batch)

    def _hidden(self, model: nn.Module) -> Tensor:
        """Of one image of nobody."""
        image = self.sample(model, longest=0, padding=0)[0]["pixel_values"]
        device = next(model.parameters()).device
        hidden_bsd: Tensor = _reader(model)(pixel_values=image[None].to(device)).last_hidden_state
        return hidden_bsd

    def sample(self, model: nn.Module, *, longest: int, padding: int) -> list[Item]:
        """Noise of the size that the model is given."""
        config, draw = _reader(model).config, torch.Generator().manual_seed(0)
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        images = torch.randn(SAMPLES, config.num_channels, height, width, generator=draw)
        return [{"pixel_values": image, "labels": torch.tensor(0)} for image in images]

    def pads_with(self, model: nn.Module, padding: int) -> bool:
        return True

    def usable(self, model: nn.Module) -> Callable[[Item], bool]:
        """Whether every number is finite."""
        return lambda item: bool(item["pixel_values"].isfinite().all())

    def ignored(self, item: Item) -> Item:
        """An image of zeros, without a class."""
        return {
            "pixel_values": torch.zeros_like(item["pixel_values"]),
            "labels": torch.full_like(item["labels"], IGNORED),
        }


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """(b, classes), in float32."""
    hidden_bsd = _reader(model)(pixel_values=batch["pixel_values"]).last_hidden_state.float()
    halves = (hidden_bsd[:, 0], hidden_bsd[:, 1:].mean(1))
    features_bd = torch.cat([functional.layer_norm(half_bd, half_bd.shape[-1:]) for half_bd in halves], dim=-1)
    logits_bc: Tensor = model.get_submodule(HEAD)(features_bd)
    return logits_bc.float()


def _reader(model: nn.Module) -> Any:
    return model

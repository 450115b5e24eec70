"""An image as the numbers that a model reads: resized and normalised as the checkpoint's own processor does, by Pillow.

torchvision resizes to slightly other numbers, and not every site has it: with Pillow all sites give a model the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image

BLANKS = ((64, 32), (32, 64))
"""Width and height of two images: a processor that keeps proportions makes other sizes of them."""


def image_processor(source: str, *, model_id: str) -> Any:
    """The checkpoint's image processor on Pillow; SettingsError where there is none, or images come out of any size."""
    with quiet_transformers():
        try:
            from transformers import AutoImageProcessor

            processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise SettingsError(
                f"cannot load the image processor of {model_id!r}: {str(error).splitlines()[0]}"
            ) from None
    try:
        sizes = {_blank(processor, size).shape for size in BLANKS}
    except Exception as error:
        raise SettingsError(
            f"the image processor of {model_id!r} makes nothing of an image ({type(error).__name__}); mend its "
            "preprocessor_config.json, or choose another model."
        ) from None
    if len(sizes) > 1:
        raise SettingsError(
            f"the image processor of {model_id!r} makes images of several sizes, which are no batch; give its "
            'preprocessor_config.json a size of "height" and "width", or a centre crop.'
        )
    return processor


def pixels_of(image: Image, processor: Any) -> Tensor:
    """(channels, height, width), float32."""
    made = processor(image, return_tensors="pt")["pixel_values"]
    pixels: Tensor = torch.as_tensor(made)[0].float()
    return pixels


def sides_of(processor: Any) -> tuple[int, int]:
    """Height and width of what it makes of any image."""
    height, width = _blank(processor, BLANKS[0]).shape[-2:]
    return int(height), int(width)


def _blank(processor: Any, size: tuple[int, int]) -> Tensor:
    from PIL import Image

    return pixels_of(Image.new("RGB", size), processor)

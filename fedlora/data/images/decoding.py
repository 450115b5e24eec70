"""The bytes of a file as an image: a few formats, eight bits a channel, and no more pixels than Pillow's own bound.

Other formats are not tried: some start programs, and few people mean them. An image of more than eight bits a channel
is refused, because Pillow cuts what is above 255 instead of scaling it. What is turned by a camera's note is turned.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import TYPE_CHECKING

from fedlora.models.packaged import VISION_INSTALL
from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 89_478_485
"""Pillow's own: a quarter of a GiB at three bytes a pixel. Pillow only warns, up to twice as many."""
LARGEST_RATIO = 100
"""Of the longer side to the shorter: a processor that scales the shorter one makes the longer as many times larger."""
UNREADABLE = "no image that can be read"
TOO_LARGE = f"an image of more than {MOST_PIXELS} pixels"
TOO_NARROW = f"an image more than {LARGEST_RATIO} times as long as it is wide"
TOO_DEEP = "an image of more than eight bits a channel"


class ImageError(ValueError):
    """Bytes that are not taken for an image: what they are, and the way out; nothing of their content."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"it is {self.what}; {self.remedy}"


def image_of(content: bytes) -> Image:
    """The (first) image in RGB, decoded whole; ImageError for anything else, whatever Pillow raises.

    SettingsError where Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise SettingsError(f"images need the package pillow, which is not installed: {VISION_INSTALL}")
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: what it would say is asked below, or is of no consequence
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                _require_sensible(opened)
                return ImageOps.exif_transpose(opened).convert("RGB")
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise ImageError(TOO_LARGE, "make it smaller") from None
        except Exception:
            raise ImageError(UNREADABLE, f"give one of {', '.join(FORMATS)}") from None


def _require_sensible(opened: Image) -> None:
    """From the header alone: no pixel was decoded yet."""
    if opened.width * opened.height > MOST_PIXELS:
        raise ImageError(TOO_LARGE, "make it smaller")
    if max(opened.size) > LARGEST_RATIO * min(opened.size):
        raise ImageError(TOO_NARROW, "cut it")
    if opened.mode.startswith(("I", "F")):
        raise ImageError(TOO_DEEP, "save it with eight")

"""A folder of images in folders, as `datasets` calls it an imagefolder: the folder that an image lies in is its class.

    cats/one.png                    class
    clinic-a/cats/one.png           client and class

What is not an image there is passed over, but for what somebody would take for one. Nothing is decided by all files
together: a site must not fail, or read others of its images otherwise, because of one. Only where somebody asks whose
the images are, which no site does, can the folder as a whole be refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.settings import SettingsError

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FOREIGN = frozenset({".avif", ".dcm", ".heic", ".heif", ".jp2", ".nii", ".npy", ".psd", ".raw", ".svg"})
"""Images that are not read."""
SPLITS = frozenset({"dev", "eval", "test", "train", "training", "val", "valid", "validation"})
DEEPEST = 3


@dataclass(frozen=True)
class Found:
    """One image of a folder, and the folders that it lies in."""

    path: Path
    folders: tuple[str, ...]

    @property
    def label(self) -> str | None:
        """None for one that lies in no class's folder."""
        return self.folders[-1] if self.folders else None

    @property
    def client(self) -> str | None:
        """None for one that lies in no client's folder."""
        return self.folders[0] if len(self.folders) == DEEPEST - 1 else None


def images_in(folder: Path) -> list[Found]:
    """Every image, and what is meant for one, in order of its path; none where there is none in a class's folder."""
    found = list(every_image(folder))
    return found if any(one.folders for one in found) else []


def every_image(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Found]:
    """Those, too, that lie in no folder of the folder; `above`: the folders that it lies in itself."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if len(above) < DEEPEST - 1:
                yield from every_image(entry, (*above, entry.name))
        elif entry.suffix.lower() in ENDINGS | FOREIGN:
            yield Found(entry, above)


def require_clients(folder: Path, found: Sequence[Found]) -> None:
    """SettingsError where the folders are no clients'."""
    clients = {one.client for one in found if one.client is not None}
    if not clients:
        raise SettingsError(
            f"data.source: {folder} does not say whose an image is: a folder of images does by folders of clients "
            "above those of classes. data.partition=iid and data.clients=4 deal the images by chance."
        )
    if clients <= SPLITS:
        raise SettingsError(
            f"the folders {', '.join(sorted(clients))} of {folder} are parts of one data set and no clients: give one "
            f"of them, such as {folder / min(clients)}; a run splits it by itself."
        )

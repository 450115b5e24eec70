"""Where a base model is: what `model.id` names, as something that `from_pretrained` takes."""

from __future__ import annotations

from pathlib import Path

from fedlora.models.from_gguf import SUFFIX, folder_of_gguf
from fedlora.models.packaged import PACKAGED, packaged_file
from fedlora.nearest import did_you_mean
from fedlora.settings import SettingsError


def locate(model_id: str) -> str:
    """A folder or hub id for `from_pretrained`: of a packaged name its files, of a GGUF file its converted folder.

    SettingsError where nothing of that name is there; whether a hub's id is, shows when it is loaded.
    """
    packaged = model_id in PACKAGED
    path = packaged_file(model_id) if packaged else Path(model_id).expanduser()
    file = gguf_in(path)
    if file is not None:
        return str(folder_of_gguf(file))
    if model_id.startswith((".", "/", "~")) and not path.is_dir():
        raise SettingsError(f"model.id={model_id!r} is not a folder.{did_you_mean(model_id)}")
    return str(path) if packaged or model_id.startswith("~") else model_id


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that is meant: the path itself, or the only one in a folder without a model of its own."""
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        if not path.is_file():
            raise SettingsError(f"model.id: there is no file {path}.{did_you_mean(path)}")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == SUFFIX)
    if len(found) > 1:
        raise SettingsError(
            f"model.id: {path} holds {len(found)} GGUF files; name one of them, as {found[0].name} in it."
        )
    return found[0] if found else None

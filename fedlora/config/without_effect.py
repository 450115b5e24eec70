"""Settings that do nothing beside others, and that somebody believes in. Refused where a run is begun by a person."""

from __future__ import annotations

from collections.abc import Iterator

from fedlora.config.data import DataSettings
from fedlora.config.recipe import Recipe
from fedlora.data.rows import PACKAGED
from fedlora.settings import SettingsError

COLUMNS = ("text", "label", "client_column")


def refuse_without_effect(recipe: Recipe) -> None:
    """SettingsError that lists every one of them, with the way out."""
    found = list(without_effect(recipe))
    if found:
        raise SettingsError("\n".join(found))


def without_effect(recipe: Recipe) -> Iterator[str]:
    train, data, adapter = recipe.train, recipe.data, recipe.adapter
    if train.momentum and train.optimizer == "adamw":
        yield _said(f"train.momentum={train.momentum:g}", "train.optimizer=adamw", "train.optimizer=sgd")
    if train.weight_decay and train.optimizer == "sgd":
        yield _said(f"train.weight_decay={train.weight_decay:g}", "train.optimizer=sgd", "train.optimizer=adamw")
    if train.max_grad_norm is not None and recipe.privacy.enabled:
        yield _said(f"train.max_grad_norm={train.max_grad_norm:g}", "privacy, which clips every example",
                    "privacy.clip instead")  # fmt: skip
    for name in COLUMNS if data.source in PACKAGED else ():
        if (column := getattr(data, name)) != DataSettings.model_fields[name].default:
            yield _said(f"data.{name}={column}", f"data.source={data.source}, which is packaged",
                        "data.source with the path of your own file")  # fmt: skip
    if data.clients is not None and data.partition == "natural":
        yield _said(f"data.clients={data.clients}", f"data.partition=natural: clients are those of data.client_column "
                    f"{data.client_column!r}", "data.partition=iid, dirichlet or label")  # fmt: skip
    if data.alpha != DataSettings.model_fields["alpha"].default and data.partition != "dirichlet":
        yield _said(f"data.alpha={data.alpha:g}", f"data.partition={data.partition}", "data.partition=dirichlet")
    if adapter.public is not None and adapter.init != "gradient":
        yield _said("adapter.public", f"adapter.init={adapter.init}", "adapter.init=gradient")
    if adapter.first_step is not None and adapter.init != "client-gradients":
        yield _said("adapter.first_step", f"adapter.init={adapter.init}", "adapter.init=client-gradients")


def _said(setting: str, beside: str, instead: str) -> str:
    return f"{setting} has no effect with {beside}. Remove it, or use {instead}."

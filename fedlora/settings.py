"""The base of every configuration model, and errors that name the key, the value, the bound and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class SettingsError(ValueError):
    """A setting that cannot be used; the text is for the person who wrote it."""


class RunError(RuntimeError):
    """A run that cannot go on; the text says why and what to do. Printed without a traceback, exit status 1."""


class Settings(BaseModel):
    """Frozen; unknown keys and infinite numbers refused; the docstring under each field is its manual and its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


S = TypeVar("S", bound=Settings)


def parse(model: type[S], values: Mapping[str, Any], *, prefix: str = "") -> S:
    """Build `model`, or raise one SettingsError that lists every problem, one a line.

    >>> class Lora(Settings):
    ...     rank: int = 8
    >>> parse(Lora, {"rnak": 4}, prefix="lora")
    Traceback (most recent call last):
    fedlora.settings.SettingsError: unknown setting lora.rnak; did you mean lora.rank?
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(model, item, prefix) for item in error.errors())) from None


def read_mapping(path: Path, what: str, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The settings in a YAML file, unchecked; SettingsError calls it `what`, such as "the policy /a/policy.yaml"."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {what}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{what} is not valid YAML and cannot be read: {error}") from None
    if values is None and may_be_empty:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{what} must hold `key: value` settings, not a {type(values).__name__}.")
    return values


def _explain(model: type[Settings], item: Any, prefix: str) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join([prefix, *path] if prefix else path)
    if item["type"] == "extra_forbidden":
        parent = ".".join([prefix, *path[:-1]] if prefix else path[:-1])
        near = difflib.get_close_matches(path[-1], _fields_at(model, path[:-1]), n=1)
        if not near:
            known = ", ".join(sorted(_fields_at(model, path[:-1])))
            return f"unknown setting {key}; known here: {known}."
        return f"unknown setting {key}; did you mean {f'{parent}.' if parent else ''}{near[0]}?"
    if item["type"] == "missing":
        return f"{key} is missing; it has no default."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else str(message)
    return f"{key} must be {message}, got {item['input']!r}."


def _fields_at(model: type[Settings], path: list[str]) -> list[str]:
    """The setting names of the model found by following `path` from `model`."""
    here: Any = model
    for part in path:
        found = here.model_fields.get(part) if isinstance(here, type) and issubclass(here, BaseModel) else None
        if found is None:
            return []
        kinds = [found.annotation, *getattr(found.annotation, "__args__", ())]
        here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []

"""The base of every configuration model, and errors that name the key, the value, the bound and the way out."""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fedlora.nearest import did_you_mean
from fedlora.nearest import nearest as nearest
from fedlora.plain_yaml import Place, Written, YamlError, read_yaml, shortened, text_of

log = logging.getLogger(__name__)

MOST_PROBLEMS = 20
MOST_CHARS = 4000
"""Longest error message: what a person can read, and a limit on what a stranger's recipe can put into a log or a
page."""
KEY_CHARS = 200
KNOWN_CHARS = 600

OTHER_WORDS = {
    "learning_rate": "lr", "epochs": "local_epochs", "num_train_epochs": "local_epochs", "max_steps": "steps",
    "local_steps": "steps", "gradient_accumulation_steps": "batch_size", "lr_scheduler_type": "schedule",
    "lr_scheduler": "schedule", "warmup_ratio": "warmup", "warmup_steps": "warmup", "warmup_rounds": "warmup",
    "mu": "proximal_mu",
    "per_device_train_batch_size": "batch_size", "num_rounds": "count", "rank": "r", "lora_alpha": "alpha",
    "lora_dropout": "dropout", "target_modules": "targets", "max_length": "max_tokens", "max_seq_length": "max_tokens",
    "model_name_or_path": "id", "num_clients": "clients", "noise": "noise_multiplier", "max_grad_norm": "clip",
    "text_column": "text", "label_column": "label", "dataset_text_field": "text", "aggregation": "name",
    "optim": "optimizer", "fraction_fit": "fraction", "bf16": "dtype",
}  # fmt: skip
"""Names that Flower, PEFT, transformers, TRL and Opacus use for a setting, with the name here."""

OTHERWISE = {
    "gradient_accumulation_steps": "It is how many examples a step takes in all; how many of them a machine has in "
    "memory at once is its own: --microbatch, or `microbatch` in client.yaml.",
}
"""Of such a name whose setting here is not the same thing: what is different."""

DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?")
THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+")

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80
_shown.maxlevel = 3


class SettingsError(ValueError):
    """A setting that cannot be used; the text is for the person who wrote it, and never longer than they would read."""

    def __init__(self, text: object = "") -> None:
        super().__init__(shortened(str(text), MOST_CHARS))


class RunError(RuntimeError):
    """A run that cannot go on; the text says why and what to do. Printed without a traceback."""

    status = 1
    """The command's exit status."""


@dataclass(frozen=True)
class FormerName:
    """Annotation of a renamed setting: a file may use the former name for one version more, which is logged once.

    For settings files of one machine only, never for what travels: digests are of names, too.
    """

    name: str


class Settings(BaseModel):
    """Frozen; unknown keys and infinite numbers refused; the docstring under each field is its manual and its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """`lr: true` would be read as 1: where only a number fits, a truth value is left as the text that it was."""
        if not isinstance(values, Mapping):
            return values
        named = _under_present_names(cls, values)
        return {key: _as_text(value) if key in _numbers(cls) else value for key, value in named.items()}


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
        found = error.errors(include_url=False, include_context=False)
        lines = values.lines if isinstance(values, Written) else {}
        said = [_explain(model, item, prefix) + _where(item["loc"], lines) for item in found[:MOST_PROBLEMS]]
        more = [f"and {len(found) - MOST_PROBLEMS} more."] if len(found) > MOST_PROBLEMS else []
        raise SettingsError("\n".join([*said, *more])) from None


def read_mapping(path: Path, what: str, *, may_be_empty: bool = False) -> Written:
    """The settings in a YAML file, unchecked; SettingsError calls it `what`, such as "the policy /a/policy.yaml"."""
    try:
        return mapping_in(text_of(path), what, may_be_empty=may_be_empty)
    except OSError as error:
        raise SettingsError(f"cannot read {what}: {error.strerror}.{did_you_mean(path)}") from None
    except YamlError as error:
        raise SettingsError(f"cannot read {what}: {error}") from None


def mapping_in(text: str, what: str, *, may_be_empty: bool = False) -> Written:
    """The settings in a YAML text, unchecked (`fedlora.plain_yaml`); SettingsError calls it `what`."""
    try:
        values = read_yaml(text)
    except YamlError as error:
        raise SettingsError(f"{what} is not valid YAML for settings: {error}") from None
    if values is None and may_be_empty:
        return Written({}, {})
    if values is None:
        raise SettingsError(f"{what} is empty; write `key: value` settings.")
    if not isinstance(values, Written):
        raise SettingsError(f"{what} must hold `key: value` settings, not a {type(values).__name__}.")
    return values


def _where(location: tuple[int | str, ...], lines: Mapping[Place, int | None]) -> str:
    """The line of the setting, or of the one that it is in, where it was read from a text."""
    places = (location[:length] for length in range(len(location), 0, -1))
    line = next((lines[place] for place in places if place in lines), None)
    return "" if line is None else f" (line {line})"


def _under_present_names(model: type[BaseModel], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`values` with present names in place of former ones; ValueError where both are given."""
    found = {former: now for former, now in _former_names(model).items() if former in values}
    for former, now in found.items():
        if now in values:
            raise ValueError(f"{former} is the former name of {now}; remove {former}.")
        _note_renamed(former, now)
    return {found.get(key, key): value for key, value in values.items()} if found else values


@cache
def _former_names(model: type[BaseModel]) -> Mapping[str, str]:
    """Former names of the settings of `model`, and the present ones."""
    named = ((item, name) for name, field in model.model_fields.items() for item in field.metadata)
    return {item.name: name for item, name in named if isinstance(item, FormerName)}


@cache
def _note_renamed(former: str, now: str) -> None:
    log.warning("the setting %s is now called %s; the next version will not read the former name", former, now)


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return {key: _as_text(inner) for key, inner in value.items()}
    return [_as_text(inner) for inner in value] if isinstance(value, (list, tuple)) else value


@cache
def _numbers(model: type[BaseModel]) -> frozenset[str]:
    """The settings of `model` that hold numbers and no truth value."""
    kinds = {name: _kinds(field.annotation) for name, field in model.model_fields.items()}
    return frozenset(name for name, found in kinds.items() if found & {int, float} and bool not in found)


def _kinds(annotation: Any) -> set[Any]:
    """Every plain type inside an annotation such as `Mapping[str, int] | None`."""
    inner = get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation} if isinstance(annotation, type) else set()


def _explain(model: type[Settings], item: Any, prefix: str) -> str:
    path = [shortened(str(part), KEY_CHARS) for part in item["loc"]]
    key = shortened(".".join([prefix, *path] if prefix else path), KEY_CHARS)
    if item["type"] == "extra_forbidden":
        parent = ".".join([prefix, *path[:-1]] if prefix else path[:-1])
        here = _fields_at(model, path[:-1])
        word, more = OTHER_WORDS.get(path[-1], path[-1]), [OTHERWISE[path[-1]]] if path[-1] in OTHERWISE else []
        start = f"{prefix}." if prefix else ""
        elsewhere = [place for place in _places(model, start) if place.rpartition(".")[2] in (path[-1], word)]
        if word in here:
            near = [f"{parent}.{word}" if parent else word]
        elif word != path[-1] and elsewhere:
            near = elsewhere[:3]
        else:
            close = nearest(path[-1], here)
            near = elsewhere[:3] if close is None else [f"{parent}.{close}" if parent else close]
        if near:
            return " ".join([f"unknown setting {key}; did you mean {' or '.join(near)}?", *more])
        return f"unknown setting {key}; known here: {shortened(', '.join(sorted(here)), KNOWN_CHARS)}."
    if item["type"] == "missing":
        return f"{key} is missing; it is required."
    message = shortened(item["msg"], KNOWN_CHARS).removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        point = _with_a_point(item)
        message = f"{message.removesuffix('.')}{point}." if point else message
        return f"{key}: {message}" if key else str(message)
    message = message.partition(", unable to parse")[0]
    return f"{key} must be {message}, got {_shown.repr(item['input'])}{_with_a_point(item)}."


def _with_a_point(item: Any) -> str:
    """Advice for a number with a comma, which is a decimal point to some and separates thousands for others."""
    text = item["input"].strip() if isinstance(item["input"], str) else ""
    ways = [text.replace(",", ".")] if DECIMAL_COMMA.fullmatch(text) and item["type"] != "int_parsing" else []
    ways += [text.replace(",", "")] if THOUSANDS.fullmatch(text) else []
    return f"; write {' or '.join(ways)}" if ways else ""


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


@cache
def _places(model: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """The dotted names of all settings of `model`, those of its sections too."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(f"{prefix}{name}")
        for inner in _kinds(field.annotation):
            if issubclass(inner, BaseModel) and inner is not model:
                found += _places(inner, f"{prefix}{name}.")
    return tuple(found)

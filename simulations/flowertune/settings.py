"""Each key of a FlowerTune app's configuration: the setting that it is here, why it has no effect, or why it is not
mapped. A key that is in none of the tables is refused by name, because nobody knows what it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlora.settings import SettingsError

ARGUMENTS = "train.training-arguments."
SAME = {
    "model.name": "model.id",
    "model.gradient-checkpointing": "model.gradient_checkpointing",
    f"{ARGUMENTS}gradient-checkpointing": "model.gradient_checkpointing",
    "model.lora.peft-lora-r": "adapter.r",
    "model.lora.peft-lora-alpha": "adapter.alpha",
    "train.learning-rate-max": "train.lr",
    "train.seq-length": "model.max_tokens",
    "train.save-every-round": "rounds.export_every",
    f"{ARGUMENTS}max-steps": "train.steps",
    f"{ARGUMENTS}weight-decay": "train.weight_decay",
    f"{ARGUMENTS}max-grad-norm": "train.max_grad_norm",
    f"{ARGUMENTS}seed": "seed",
    "strategy.fraction-fit": "rounds.fraction",
    "strategy.fraction-train": "rounds.fraction",
    "num-server-rounds": "rounds.count",
}
WITHOUT_EFFECT = {
    f"{ARGUMENTS}output-dir": "the app writes its own over it; here it is --out",
    f"{ARGUMENTS}learning-rate": "the app writes train.learning-rate-max and -min over it",
    f"{ARGUMENTS}logging-steps": "what a trainer prints",
    f"{ARGUMENTS}save-steps": "checkpoints of one round, which nobody reads",
    f"{ARGUMENTS}save-total-limit": "checkpoints of one round, which nobody reads",
    f"{ARGUMENTS}num-train-epochs": "max-steps goes before it",
}
BATCH, ACCUMULATION = f"{ARGUMENTS}per-device-train-batch-size", f"{ARGUMENTS}gradient-accumulation-steps"
DATASETS = ("static.dataset.name", "dataset.name")
PLAIN = {
    f"{ARGUMENTS}lr-scheduler-type": ("constant", "constant within a round is what every round here is"),
    f"{ARGUMENTS}optim": ("adamw_torch", "train.optimizer: adamw is torch's"),
    f"{ARGUMENTS}warmup-steps": (0, "there is none"),
    f"{ARGUMENTS}warmup-ratio": (0, "there is none"),
    "strategy.fraction-evaluate": (0, "here clients evaluate what they receive, always"),
}
"""Keys whose one value changes nothing; another one is not mapped."""


NEEDED = ("model.name", "train.learning-rate-max", "train.seq-length", "model.lora.peft-lora-r", "num-server-rounds")
"""What no recipe should have by its own defaults instead."""


HIGHEST = "train.learning-rate-max"
LEAST_SHARE = 1e-3
"""Of the highest rate, where the app ends at 0."""


@dataclass(frozen=True)
class Found:
    """What became of an app's configuration."""

    settings: dict[str, Any] = field(default_factory=dict)
    """By the dotted name of the recipe's setting."""
    mapped: dict[str, str] = field(default_factory=dict)
    without_effect: dict[str, str] = field(default_factory=dict)
    not_mapped: dict[str, str] = field(default_factory=dict)
    dataset: str | None = None


def mapped(config: Mapping[str, Any]) -> Found:
    """Every key of `config`, by its dotted name; SettingsError that lists those that nobody knows."""
    found, unknown, dataset = Found(), list[str](), None
    for written, value in config.items():
        key = written.replace("_", "-")
        if key in SAME:
            found.settings[SAME[key]] = value
            found.mapped[written] = f"{SAME[key]}: {value}"
        elif key in WITHOUT_EFFECT:
            found.without_effect[written] = WITHOUT_EFFECT[key]
        elif key in PLAIN:
            plain, why = PLAIN[key]
            where = found.without_effect if value == plain else found.not_mapped
            where[written] = why if value == plain else f"{value!r} has no counterpart; {why}"
        elif key in DATASETS:
            dataset = str(value)
            found.mapped[written] = "data.source, as a file (--source)"
        elif key not in (BATCH, ACCUMULATION, *SPECIAL):
            unknown.append(written)
    if unknown:
        raise SettingsError(
            f"unknown in a FlowerTune app: {', '.join(sorted(unknown))}. fedlora does not know what your app makes of "
            "them: take them out of a copy of pyproject.toml, and set what they stand for in the recipe."
        )
    plain = {key.replace("_", "-"): value for key, value in config.items()}
    if missing := [key for key in NEEDED if key not in plain]:
        raise SettingsError(f"the app does not set {', '.join(missing)}: it is no app of FlowerTune's kind.")
    add_batch(found, plain)
    for key, add in SPECIAL.items():
        if key in plain:
            add(found, key, plain)
    return Found(found.settings, found.mapped, found.without_effect, found.not_mapped, dataset)


def add_batch(found: Found, config: Mapping[str, Any]) -> None:
    """What one optimiser step sees."""
    batch, pieces = int(config.get(BATCH, 8)), int(config.get(ACCUMULATION, 1))
    found.settings["train.batch_size"] = batch * pieces
    found.mapped[BATCH] = f"train.batch_size: {batch * pieces}"
    if ACCUMULATION in config:
        found.mapped[ACCUMULATION] = (
            f"train.batch_size, {batch} x {pieces}; the pieces are the machine's (--microbatch)"
        )
    if int(config.get(f"{ARGUMENTS}max-steps", -1)) < 1:
        raise SettingsError(f"{ARGUMENTS}max-steps is not set: a round here has so many steps, not so many epochs.")


def add_quantization(found: Found, key: str, config: Mapping[str, Any]) -> None:
    if config[key] not in (4, 8):
        found.without_effect[key] = "no quantisation"
        return
    held = "nf4" if config[key] == 4 else "int8"
    found.settings["model.load_dtype"] = held
    found.mapped[key] = f"model.load_dtype: {held}" + (", in place of transformers' fp4" if held == "nf4" else "")


def add_lowest(found: Found, key: str, config: Mapping[str, Any]) -> None:
    """The app's cosine over rounds: its round n of N is at n / N of the way down, a recipe's at (n - 1) / (N - 1)."""
    lowest, highest, rounds = float(config[key]), float(config[HIGHEST]), int(config["num-server-rounds"])
    if lowest == highest:
        found.without_effect[key] = f"the same as {HIGHEST}"
        return
    if not 0 <= lowest < highest:
        raise SettingsError(f"{key}={lowest:g} is not from 0 to {HIGHEST}={highest:g}; mend it in a copy of the app.")
    if rounds == 1:
        found.not_mapped[key] = (
            f"the app's one round is its last and has this rate, and a recipe's one round has train.lr, {highest:g}: "
            f"--set train.lr={lowest:g} is the app's"
        )
        return
    share = lowest / highest or LEAST_SHARE
    found.settings.update({"train.schedule": "cosine", "train.schedule_over": "rounds", "train.min_lr_rate": share})
    found.mapped[key] = (
        f"train.schedule: cosine over rounds, train.min_lr_rate: {share:g}"
        + ("" if lowest else " in place of 0, at which a round would move nothing")
        + f"; round 1 has the whole rate here, in the app {rate_of_first(lowest, highest, rounds):.3g}"
    )


def rate_of_first(lowest: float, highest: float, rounds: int) -> float:
    """The app's own rate in round 1."""
    return lowest + (highest - lowest) * (1 + math.cos(math.pi / rounds)) / 2


def add_precision(found: Found, key: str, config: Mapping[str, Any]) -> None:
    if config[key]:
        found.settings["model.dtype"] = "bfloat16"
        found.mapped[key] = "model.dtype: bfloat16" + (" in place of float16" if key.endswith("fp16") else "")
    else:
        found.without_effect[key] = "off"


SPECIAL = {
    "model.quantization": add_quantization,
    "train.learning-rate-min": add_lowest,
    f"{ARGUMENTS}bf16": add_precision,
    f"{ARGUMENTS}fp16": add_precision,
}

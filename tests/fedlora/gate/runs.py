"""Runs to look at, broken copies of them, and the command as a person types it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from fedlora.cli import app
from tests.federations import run, tiny_recipe

OTHER = {"good": "bad", "bad": "good"}
TENSORS = "adapter/adapter_model.safetensors"


def run_of_texts(folder: Path, model: str, source: str) -> Path:
    """It learns to tell the two classes apart."""
    run(tiny_recipe(model, source, "strategy.name=fedit", "train.steps=20", "train.batch_size=16"), folder)
    return folder


def swapped(source: str, out: Path) -> str:
    rows = list(csv.DictReader(Path(source).read_text().splitlines()))
    out.write_text(
        "\n".join(["text,label,client", *(f"{row['text']},{OTHER[row['label']]},{row['client']}" for row in rows)])
    )
    return str(out)


def planted(honest: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy of a run with other tensors in its adapter."""
    shutil.copytree(honest, out, ignore=shutil.ignore_patterns("gate.json", "exports"))
    tensors = {name: change(name, tensor) for name, tensor in load_file(out / TENSORS).items()}
    save_file(tensors, out / TENSORS)
    return out


def copied(honest: Path, out: Path) -> Path:
    return planted(honest, out, lambda name, tensor: tensor)


def gated(*words: object) -> tuple[int, dict, str]:
    """Exit status, what gate.json holds, and what was printed; what it raises is raised here."""
    answer = CliRunner().invoke(app, ["gate", *map(str, words)], catch_exceptions=False)
    file = Path(str(words[0])) / "adapter" / "gate.json"
    return answer.exit_code, json.loads(file.read_text()), answer.output


def check(found: dict, name: str) -> dict:
    (one,) = [one for one in found["checks"] if one["name"] == name]
    return one

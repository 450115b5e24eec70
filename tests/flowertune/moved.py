"""The app of these tests, copied, changed line by line, and run on a grid in this process."""

from __future__ import annotations

import difflib
import importlib
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from simulations.local_grid import LocalGrid

APP = Path(__file__).parent / "app"
PACKAGE = "flowertune_tiny"


@dataclass(frozen=True)
class Ran:
    """What the app left behind."""

    result: Any
    counted: int
    """Bytes, by the app's own count."""
    folder: Path
    base: str


def copied(folder: Path, changes: Mapping[str, Mapping[str, str]]) -> tuple[Path, int]:
    """The app in `folder` with these lines in place of others, by file; and how many lines are changed."""
    place = folder / "app"
    shutil.copytree(APP, place, ignore=shutil.ignore_patterns("__pycache__"))
    changed = 0
    for name, lines in changes.items():
        path = place / PACKAGE / name
        before = path.read_text()
        after = before
        for old, new in lines.items():
            assert old in after, (name, old)
            after = after.replace(old, new, 1)
        path.write_text(after)
        found = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
        changed += sum(line.startswith("+") and not line.startswith("+++") for line in found)
    return place, changed


def run(place: Path, base: str, *, nodes: int = 3) -> Ran:
    """Its ServerApp and its ClientApp, as `flwr run` would, with a model of this machine."""
    config = {**flat(tomllib.loads((place / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])}
    config |= {"model.name": base, "save_path": str(place / "results")}
    with importable(place):
        server = importlib.import_module(f"{PACKAGE}.server_app")
        client = importlib.import_module(f"{PACKAGE}.client_app")
        grid = LocalGrid(client.app, nodes=nodes, run_config=config)
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
        server.app(grid, context)
        result, counted = server.FINISHED[0]
    return Ran(result, counted, place / "results", base)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """As Flower flattens a run's configuration."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


@contextmanager
def importable(place: Path) -> Iterator[None]:
    forget()  # pytest has looked for doctests in the app as it stands
    sys.path.insert(0, str(place))
    try:
        yield
    finally:
        sys.path.remove(str(place))
        forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]

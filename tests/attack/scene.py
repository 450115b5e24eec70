"""Sites, tasks and ledgers for attacks: a coordinator may send what it likes, so tasks are changed at will."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from flwr.clientapp import ClientApp

from client.deployed import respond
from client.settings import ClientSettings, load_client
from fedlora.config import Recipe
from fedlora.data.row import Row, text_row
from fedlora.privacy.ledger import LedgerFiles, datasets, inspect_ledger
from fedlora.protocol.task import Report, Task
from simulations.auditing.federation import Federation, federate_alone
from simulations.auditing.site import make_site
from simulations.data.site_files import write_rows
from simulations.local_grid import LocalGrid
from tests.federations import save_messages, save_tiny_model, tiny_recipe

LABELS = ("bad", "good")


def small_recipe(folder: Path, *overrides: str) -> Recipe:
    """Four clients, a tiny BERT, private FFA."""
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return tiny_recipe(model, source, "strategy.name=ffa", "privacy.epsilon=3", *overrides)


def messages(count: int) -> list[Row]:
    """Distinct ones."""
    words = ("flight", "the", "my", "bag", "crew", "seat")
    texts = [" ".join(words[number // 6**place % 6] for place in range(6)) for number in range(count)]
    return [
        text_row(f"{text} {'great' if number % 2 else 'late'}", LABELS[number % 2], "")
        for number, text in enumerate(texts)
    ]


def run_of(recipe: Recipe, site: ClientSettings, folder: Path, labels: tuple[str, ...] = LABELS) -> Federation:
    """A run that has not begun."""
    return federate_alone(recipe, labels, site, folder / "run")


def with_app(run: Federation, app: ClientApp) -> Federation:
    """The same run, answered by somebody else."""
    return replace(run, grid=LocalGrid(app, nodes=1, run_config={}))


def site_with(
    folder: Path, rows: Sequence[Row], *, policy: Mapping[str, Any] | None = None, test: Sequence[Row] = ()
) -> ClientSettings:
    """A deployed site; with a policy of its own where one is given, with a test file where rows are."""
    file = folder.with_suffix(".test.csv")
    if test:
        write_rows(file, test)
    made = make_site(folder, "clinic", rows, test=file if test else None)
    if policy is not None:
        (folder / "policy.yaml").write_text(yaml.safe_dump(dict(policy)))
    return load_client(made.folder / "client.yaml")


def named(site: ClientSettings, dataset: str) -> ClientSettings:
    """The same files under another name."""
    return site.model_copy(update={"data": site.data.model_copy(update={"dataset": dataset})})


def asked(task: Task, blob: bytes, site: ClientSettings) -> str:
    """What the coordinator is told: trained, or why not."""
    report, _ = respond(task, blob, site)
    return outcome(report)


def outcome(report: Report) -> str:
    return report.outcome if report.code is None else f"{report.outcome}: {report.code}"


def charges(site: ClientSettings) -> int:
    """In all ledgers of the site."""
    return sum(
        entry.kind == "charge"
        for dataset in datasets(site.state)
        for entry in inspect_ledger(LedgerFiles(site.state, dataset)).entries
    )


class Opened:
    """How often a file was opened while `counting`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.times = 0


_watched: list[Opened] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        for opened in _watched:
            opened.times += str(args[0]) == opened.path


@contextmanager
def counting(path: Path) -> Iterator[Opened]:
    """Count openings of a file by Python; a hook of the interpreter stays, and does nothing afterwards."""
    if _hook not in _hooked:
        sys.addaudithook(_hook)
        _hooked.append(_hook)
    opened = Opened(path)
    _watched.append(opened)
    try:
        yield opened
    finally:
        _watched.remove(opened)


_hooked: list[Any] = []

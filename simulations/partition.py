"""Examples over clients: natural groups, or IID, Dirichlet and by-label parts, always the same for the same seed.

Order of things: distinct texts, then the one shared test set, then clients, then each client's own train and test part.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from fedlora.config import DataSettings, ModelSettings
from fedlora.examples import Examples, tokenise
from fedlora.models import load_tokenizer
from fedlora.randomness import chooser, generator
from fedlora.rows import PACKAGED, Columns, Row, files_of, read_rows
from fedlora.settings import SettingsError


@dataclass(frozen=True)
class ClientExamples:
    """One simulated client's data."""

    train: Examples
    test: Examples


@dataclass(frozen=True)
class Federation:
    """All data of a simulation."""

    labels: tuple[str, ...]
    clients: Mapping[str, ClientExamples]
    held_out: Examples
    """The shared test set, no text of which is at any client."""


def federation(settings: DataSettings, *, model: ModelSettings, seed: int) -> Federation:
    """Read, deduplicate, split and tokenise; SettingsError on data that cannot be used."""
    columns = Columns(
        settings.text, settings.label, settings.client_column if settings.partition == "natural" else None
    )
    corpus = tokenised(settings.source, columns, settings.labels, model, version_of(settings.source))
    if len(corpus.rows) <= settings.held_out:
        raise SettingsError(
            f"data.held_out={settings.held_out} takes all of the {len(corpus.rows)} distinct examples; lower it."
        )
    held_out, clients = assign(corpus.rows, settings, seed=seed)
    take = corpus.examples.take
    parts = {name: ClientExamples(take(train), take(test)) for name, (train, test) in clients.items()}
    return Federation(corpus.labels, parts, take(held_out))


def assign(
    rows: Sequence[Row], settings: DataSettings, *, seed: int
) -> tuple[list[int], dict[str, tuple[list[int], list[int]]]]:
    """Indices of the shared test set, and every client's training and test indices."""
    order = torch.randperm(len(rows), generator=generator(seed, "held-out")).tolist()
    shared = order[settings.held_out :]
    parts = partition([rows[index] for index in shared], settings, seed=seed)
    clients = {
        name: split_client(name, [shared[position] for position in positions], settings, seed=seed)
        for name, positions in parts.items()
    }
    return order[: settings.held_out], clients


@dataclass(frozen=True)
class Corpus:
    """All rows of a source, and the same rows as examples."""

    rows: Sequence[Row]
    labels: tuple[str, ...]
    examples: Examples


@lru_cache(maxsize=2)
def tokenised(
    source: str, columns: Columns, labels: tuple[str, ...] | None, model: ModelSettings, version: object
) -> Corpus:
    """Read and tokenised once per process, however many runs share it; `version` tells a changed file."""
    rows = read_rows(source, columns)
    found = labels or tuple(sorted({row.label for row in rows}))
    if len(found) < 2:
        raise SettingsError(f"data.source={source!r} has {len(found)} class(es); classification needs two.")
    return Corpus(rows, found, tokenise(rows, found, load_tokenizer(model), max_tokens=model.max_tokens))


def version_of(source: str) -> object:
    """What changes when a local source does."""
    if source in PACKAGED:
        return None
    return tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in files_of(source))


def partition(rows: Sequence[Row], settings: DataSettings, *, seed: int) -> dict[str, list[int]]:
    """Positions in `rows` for every client, by name."""
    if settings.partition == "natural":
        groups: dict[str, list[int]] = defaultdict(list)
        for position, row in enumerate(rows):
            groups[row.client].append(position)
        return dict(sorted(groups.items()))
    assert settings.clients is not None  # the recipe's own check
    count = settings.clients
    if count > len(rows):
        raise SettingsError(f"data.clients={count} is more than the {len(rows)} examples that there are.")
    if settings.partition == "iid":
        parts = iid(len(rows), count, seed=seed)
    elif settings.partition == "dirichlet":
        parts = dirichlet([row.label for row in rows], count, settings.alpha, seed=seed)
    else:
        parts = by_label([row.label for row in rows], count)
    width = len(str(count - 1))
    return {f"client-{number:0{width}d}": part for number, part in enumerate(parts)}


def iid(examples: int, count: int, *, seed: int) -> list[list[int]]:
    """`count` parts of equal size, give or take one."""
    order = torch.randperm(examples, generator=generator(seed, "iid")).tolist()
    return [order[number::count] for number in range(count)]


def dirichlet(labels: Sequence[str], count: int, alpha: float, *, seed: int) -> list[list[int]]:
    """Each class is spread in Dirichlet(alpha) shares; a client that got nothing is given one example."""
    parts: list[list[int]] = [[] for _ in range(count)]
    stream = chooser(seed, "dirichlet")
    for label in sorted(set(labels)):
        positions = [position for position, found in enumerate(labels) if found == label]
        stream.shuffle(positions)
        draws = [stream.gammavariate(alpha, 1.0) for _ in range(count)]
        start, cumulative = 0, 0.0
        for number, draw in enumerate(draws):
            cumulative += draw
            end = round(cumulative / sum(draws) * len(positions)) if sum(draws) > 0 else len(positions)
            parts[number] += positions[start:end]
            start = end
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def by_label(labels: Sequence[str], count: int) -> list[list[int]]:
    """Examples sorted by class and cut into `count` runs: most clients see one class only."""
    order = sorted(range(len(labels)), key=lambda position: labels[position])
    bounds = [round(number * len(order) / count) for number in range(count + 1)]
    return [order[start:end] for start, end in itertools.pairwise(bounds)]


def split_client(
    name: str, indices: Sequence[int], settings: DataSettings, *, seed: int
) -> tuple[list[int], list[int]]:
    """A client's own training and test indices; SettingsError for a client with too little to have both."""
    if len(indices) < 2:
        raise SettingsError(
            f"client {name!r} has {len(indices)} example(s) after the shared test set was taken; it needs two. "
            "Use fewer clients (data.clients), or a smaller data.held_out."
        )
    order = torch.randperm(len(indices), generator=generator(seed, "client", name, "test")).tolist()
    tests = min(len(indices) - 1, max(1, round(settings.test_fraction * len(indices))))
    train = [indices[position] for position in order[tests:]][: settings.max_examples]
    return train, [indices[position] for position in order[:tests]]

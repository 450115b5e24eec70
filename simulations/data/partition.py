"""Examples over clients: natural groups, or IID, Dirichlet and by-label parts, always the same for the same seed.

Order of things: one row a text, then the one shared test set, then clients, then each client's own train and test part.
From the file to a client's training set a row's own text (and class) decides, by `membership`, as at a deployed
site: one row more or less in the source makes at most one join or leave at each client.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedlora.config import DataSettings, ModelSettings
from fedlora.data.choose_columns import require_shared
from fedlora.data.chosen_columns import columns_for
from fedlora.data.classes import require_classes
from fedlora.data.columns import columns_in
from fedlora.data.examples import Examples, digest_of, encoded
from fedlora.data.form import Columns
from fedlora.data.lengths import extent_of
from fedlora.data.membership import first_of, held_out, key_of, place, split
from fedlora.data.packaged import is_packaged
from fedlora.data.row import Row, labels_in
from fedlora.data.rows import File, Read, files_behind, read_whole, whole
from fedlora.models.base import load_processor
from fedlora.randomness import chooser
from fedlora.settings import SettingsError
from simulations.data.summary import DataSummary, summary_of_data

IN_MEMORY = "(given in Python)"
"""`data.source` of a run whose clients' rows were objects: a recipe with it cannot be run again from the file."""


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
    held_out_rows: tuple[Row, ...]
    """The same as the source has it."""
    found: DataSummary
    """What the source holds."""

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """What tells one set of examples from another: of these clients, and of the shared test set."""
        whole = {f"client {name}": (self.clients[name].train, self.clients[name].test) for name in names}
        return {who: digest_of(*parts) for who, parts in {**whole, "the test set": (self.held_out,)}.items()}

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Examples to train and to test on, by client."""
        return {name: (len(client.train), len(client.test)) for name, client in self.clients.items()}


def federation(
    settings: DataSettings, *, model: ModelSettings, seed: int, files: Sequence[File] | None = None
) -> Federation:
    """Read, deduplicate, split and tokenise; SettingsError on data that cannot be used.

    `files`: tables that are in memory, in place of what `data.source` names.
    """
    columns = columns_of(settings, model.task)
    if files is None:
        version = version_of(settings.source, columns)
        corpus = tokenised(settings.source, columns, settings.labels, model, version)
    else:
        read = whole(settings.source, files, columns, labels=settings.labels)
        corpus = corpus_of(read, settings.source, columns, settings.labels, model)
    shared, clients = assign(corpus.read.rows, settings, seed=seed)
    take = corpus.examples.take
    parts = {name: ClientExamples(take(train), take(test)) for name, (train, test) in clients.items()}
    rows = tuple(corpus.read.rows[index] for index in shared)
    return Federation(corpus.labels, parts, take(shared), rows, corpus.found)


def columns_of(settings: DataSettings, task: str) -> Columns:
    """The columns that are read: of clients only where they are the partition; a file each where none is named."""
    if settings.partition != "natural":
        return columns_for(settings, task, source=settings.source)
    unnamed = settings.client_column == DataSettings.model_fields["client_column"].default
    client = settings.client_column
    return columns_for(settings, task, source=settings.source, client=client, client_by_file=unnamed)


def assign(
    rows: Sequence[Row], settings: DataSettings, *, seed: int
) -> tuple[list[int], dict[str, tuple[list[int], list[int]]]]:
    """Indices of the shared test set, and every client's training and test indices."""
    key = key_of(seed)
    texts = {row.key for row in rows}
    chosen = held_out(texts, settings.held_out, key)
    if len(chosen) == len(texts):
        raise SettingsError(
            f"data.held_out={settings.held_out} takes all of the {len(texts)} distinct examples; lower it."
        )
    ours = [index for index, row in enumerate(rows) if row.key not in chosen]
    parts = partition([rows[index] for index in ours], settings, seed=seed)
    clients = {
        name: split_client(name, rows, [ours[position] for position in positions], settings, key=key)
        for name, positions in parts.items()
    }
    return once_each(rows, [index for index, row in enumerate(rows) if row.key in chosen]), clients


def once_each(rows: Sequence[Row], indices: Sequence[int]) -> list[int]:
    """The indices without repeats of a text: clients may share one, and one in several classes is no test."""
    classes: dict[str, dict[str | None, int]] = {}
    for index in indices:
        classes.setdefault(rows[index].key, {}).setdefault(rows[index].label, index)
    return [index for found in classes.values() if len(found) == 1 for index in found.values()]


@dataclass(frozen=True)
class Corpus:
    """All rows of a source, and the same rows as examples."""

    read: Read
    labels: tuple[str, ...]
    examples: Examples
    found: DataSummary


@lru_cache(maxsize=2)
def tokenised(
    source: str, columns: Columns, labels: tuple[str, ...] | None, model: ModelSettings, version: object
) -> Corpus:
    """Read and tokenised once per process, however many runs share it; `version` tells a changed file."""
    return corpus_of(read_whole(source, columns, labels=labels), source, columns, labels, model)


def corpus_of(
    read: Read, source: str, columns: Columns, labels: tuple[str, ...] | None, model: ModelSettings
) -> Corpus:
    """What was read as examples; SettingsError where it has nothing to tell apart, or hundreds of classes."""
    found = labels or labels_in(read.rows)
    if columns.label is not None:
        require_two(found, read, source)
        if labels is None:
            require_classes(found, columns, source)
    processor = load_processor(model)
    examples = encoded(read.rows, found, processor, on=model)
    extent = extent_of(read.rows, examples, processor, on=model)
    return Corpus(read, found, examples, summary_of_data(source, read.rows, found, read.counts, extent))


def require_two(labels: Sequence[str], read: Read, source: str) -> None:
    """SettingsError for data that have nothing to tell apart."""
    if len(labels) < 2:
        raise SettingsError(
            f"data.source={source!r} has {len(labels)} class(es) in {read.counts}; classification needs two."
        )


def version_of(source: str, columns: Columns) -> object:
    """What changes when a local source does; of a table with paths of images, the table."""
    files = files_behind(source, columns)
    return tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def partition(rows: Sequence[Row], settings: DataSettings, *, seed: int) -> dict[str, list[int]]:
    """Positions in `rows` for every client, by name."""
    if settings.partition == "natural":
        clients = {name: number for number, name in enumerate(sorted({row.client for row in rows}))}
        if len(clients) > len(rows) / 2 and settings.source != IN_MEMORY:
            refuse_row_numbers(settings)
        return dict(zip(clients, dealt([clients[row.client] for row in rows], len(clients)), strict=True))
    assert settings.clients is not None  # the recipe's own check
    count = settings.clients
    if count > len(rows):
        raise SettingsError(f"data.clients={count} is more than the {len(rows)} examples that there are.")
    places = [place(row.key, key_of(seed), "client") for row in rows]
    labels = [row.label for row in rows if row.label is not None and not row.form.of_words]
    if settings.partition == "iid":
        chosen = iid(places, count)
    elif not labels:
        raise SettingsError(
            f"data.partition={settings.partition} deals rows by their class, and these have none of their own; use "
            "iid or natural."
        )
    elif settings.partition == "dirichlet":
        chosen = dirichlet(labels, places, count, settings.alpha, seed=seed)
    else:
        chosen = by_label(labels, places, count, classes=settings.labels or tuple(sorted(set(labels))))
    width = len(str(count - 1))
    return {f"client-{number:0{width}d}": part for number, part in enumerate(dealt(chosen, count))}


def refuse_row_numbers(settings: DataSettings) -> None:
    """SettingsError where the source's column of clients has a value of its own for most rows."""
    columns = [] if is_packaged(settings.source) else columns_in(settings.source)
    others = [column for column in columns if column.name not in (settings.text, settings.label)]
    for column in columns:
        if column.name == settings.client_column:
            said = f"data.client_column={column.name!r}"
            require_shared(said, column, others, instead="give data.partition=iid and data.clients=4")


def dealt(clients: Sequence[int], count: int) -> list[list[int]]:
    """The positions of each of `count` clients, from the client of each position."""
    parts: list[list[int]] = [[] for _ in range(count)]
    for position, client in enumerate(clients):
        parts[client].append(position)
    return parts


def iid(places: Sequence[float], count: int) -> list[int]:
    """Every example's client, each as likely as any other: sizes differ as chance has it."""
    return [int(u * count) for u in places]


def dirichlet(labels: Sequence[str], places: Sequence[float], count: int, alpha: float, *, seed: int) -> list[int]:
    """Every example's client, with the probabilities of its class, which are drawn from Dirichlet(alpha)."""
    ends = {label: _shares(chooser(seed, "dirichlet", label), count, alpha) for label in sorted(set(labels))}
    return [
        next((number for number, end in enumerate(ends[label]) if u < end), count - 1)
        for label, u in zip(labels, places, strict=True)
    ]


def _shares(stream: random.Random, count: int, alpha: float) -> list[float]:
    """Where each client's share of a class ends, in [0, 1]."""
    draws = [stream.gammavariate(alpha, 1.0) for _ in range(count)]
    if not sum(draws) > 0:  # alpha so small that all underflow: one client has it all
        draws[stream.randrange(count)] = 1.0
    return [end / sum(draws) for end in itertools.accumulate(draws)]


def by_label(labels: Sequence[str], places: Sequence[float], count: int, *, classes: Sequence[str]) -> list[int]:
    """Every example's client: the classes in a row, equally wide, and cut into `count`: most clients see one or two."""
    number = {label: index for index, label in enumerate(classes)}
    ends = [(number[label] + u) / len(classes) * count for label, u in zip(labels, places, strict=True)]
    return [min(int(end), count - 1) for end in ends]


def split_client(
    name: str, rows: Sequence[Row], indices: Sequence[int], settings: DataSettings, *, key: bytes
) -> tuple[list[int], list[int]]:
    """A client's own training and test indices; SettingsError for a client with too little to have both."""
    texts = [rows[index].key for index in indices]
    train, test = split(texts, key, test_fraction=settings.test_fraction, train_fraction=settings.train_fraction)
    if not train:
        fewer = {
            "natural": "a column of clients that have more rows each (data.client_column)",
            "dirichlet": "fewer clients (data.clients), a larger data.alpha",
        }.get(settings.partition, "fewer clients (data.clients)")
        raise SettingsError(
            f"client {name!r} has {len(indices)} example(s) after the shared test set was taken, {len(test)} of them "
            f"to test on and none to train on. Use {fewer}, another seed, or a smaller data.held_out or "
            "data.test_fraction."
        )
    train = [train[position] for position in first_of([texts[i] for i in train], settings.max_examples, key)]
    return [indices[position] for position in train], [indices[position] for position in test]

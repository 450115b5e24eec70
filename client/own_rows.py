"""The rows that a site trains and tests on: from its own files and settings alone, never from what a task says.

    file ─► rows that can be used ─► one a text ─► not in the test file ─► train | test
             (each by itself)        (by group)    (each by itself)        (keyed hash of the text)

Guarantee (1-stable): one row more or less in the training file makes at most one row join or leave `train`; so does one
row of the test file. This is what the noise of one example covers. Whether a task is refused here depends on the site
alone: every task is told the same, and asking again tells nothing new.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from client.settings import ClientSettings, SiteData
from fedlora.data.chosen_columns import columns_for
from fedlora.data.form import Columns
from fedlora.data.membership import split
from fedlora.data.one_per_text import Counts
from fedlora.data.row import Row
from fedlora.data.rows import Read, files_behind, read_source
from fedlora.nearest import did_you_mean
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.rows_key import rows_key
from fedlora.privacy.sketch import Hashes, hashes_of
from fedlora.privacy.sketch import require_own_name as require_sketch
from fedlora.settings import SettingsError

TEST_FRACTION = 0.1
"""Probability of an example to be kept apart for testing when the site names no test file."""


@dataclass(frozen=True)
class OwnRows:
    """A site's rows, and what was left out of its files."""

    train: tuple[Row, ...]
    test: tuple[Row, ...]
    counts: Counts
    """Of the training file."""
    test_counts: Counts | None
    """Of the test file, where there is one."""
    hashes: Hashes = field(repr=False, compare=False)
    """Of the texts that are trained on (`fedlora.privacy.sketch`)."""
    also_tested: int = 0
    """Training rows left out because their text is in the test file."""
    malformed: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """The first of them, with file and line: for this site's people (`client doctor`), never for a task's answer."""


def own_rows(settings: ClientSettings) -> OwnRows:
    """The site's rows, with its own key, which is made if there is none."""
    return rows_in(settings.data, rows_key(settings.state))


def rows_in(data: SiteData, key: bytes) -> OwnRows:
    """Read again only when a file has changed. SettingsError where a file is missing or cannot be used as a whole."""
    for file in (data.train, data.test):
        if file is not None and not file.exists():
            raise SettingsError(
                f"the data {file} that client.yaml names are not there; mend `train` or `test` under "
                f"data.{did_you_mean(file)}"
            )
    columns = columns_for(data, data.task)
    return _rows_in(data, key, tuple(_version(file, columns) for file in (data.train, data.test)))


def _version(file: Path | None, columns: Columns) -> object:
    """What changes when a file, or one in a folder, does; also where its time and size were kept."""
    if file is None:
        return None
    return tuple(
        (str(path), *((found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size) if found else ()))
        for path in files_behind(str(file), columns)
        for found in [_found(path)]
    )


def _found(path: Path) -> os.stat_result | None:
    """None for a link that leads nowhere and a file that is gone: one of a folder must not be in the way of all."""
    try:
        return path.stat()
    except OSError:
        return None


@lru_cache(maxsize=2)
def _rows_in(data: SiteData, key: bytes, version: object) -> OwnRows:
    train = _read(data, data.train)
    if data.test is not None:
        test = _read(data, data.test)
        tested = {row.key for row in test.rows}
        kept = tuple(row for row in train.rows if row.key not in tested)
        left_out = len(train.rows) - len(kept)
        malformed = train.malformed + test.malformed
        return OwnRows(kept, test.rows, train.counts, test.counts, _hashes(kept, key), left_out, malformed)
    chosen, tests = split([row.key for row in train.rows], key, test_fraction=TEST_FRACTION)
    kept = tuple(train.rows[index] for index in chosen)
    test_rows = tuple(train.rows[index] for index in tests)
    return OwnRows(kept, test_rows, train.counts, None, _hashes(kept, key), malformed=train.malformed)


def _hashes(rows: Sequence[Row], key: bytes) -> Hashes:
    return hashes_of((row.key for row in rows), key)


def _read(data: SiteData, file: Path) -> Read:
    return read_source(str(file), columns_for(data, data.task), labels=data.labels)


def require_task(settings: ClientSettings, task: str) -> None:
    """Refuse to train for something else than the data are for. No file is opened."""
    if task != settings.data.task:
        raise Refusal(
            Code.ANOTHER_TASK,
            f"the coordinator asks for {task}, and data.task in client.yaml says that these data are for "
            f"{settings.data.task}; change it where they are for both.",
        )


def require_classes(settings: ClientSettings, labels: Sequence[str]) -> None:
    """Refuse a task that lacks one of the declared classes. No file is opened."""
    missing = sorted(set(settings.data.labels or ()) - set(labels))
    if missing:
        raise Refusal(
            Code.CLASSES_NOT_DECLARED,
            f"the task's classes ({', '.join(labels)}) lack {missing[0]!r}, which data.labels in client.yaml declares; "
            "agree with the coordinator on the classes, or take it out of data.labels.",
        )


def require_usable(settings: ClientSettings, rows: OwnRows) -> None:
    """Refuse where too much of the training file is left out, or nothing is left."""
    share, bound = rows.counts.unusable_share, settings.data.max_unusable_share
    if share > bound:
        raise Refusal(
            Code.TOO_MANY_UNUSABLE,
            f"{share:.0%} of the rows of {settings.data.train} cannot be used, more than data.max_unusable_share "
            f"{bound:.0%}: {rows.counts}. Mend the file, data.labels, or the bound.",
        )
    if not rows.train or not rows.test:
        raise Refusal(
            Code.TOO_FEW_EXAMPLES,
            f"the site has {len(rows.train)} examples to train on and {len(rows.test)} to test on, from "
            f"{settings.data.train}: {rows.counts}. It needs both.",
        )


def require_own_name(settings: ClientSettings, rows: OwnRows) -> None:
    """Refuse data that were charged under another name at this site; note, beside the ledger, which rows these are."""
    require_sketch(settings.state, settings.data.dataset, rows.hashes, key=rows_key(settings.state))

"""Sketches of the rows behind each dataset's budget: keyed hashes beside each ledger, so that a new dataset name gives
no new budget.

    <site>/privacy/sketches/<dataset>    8 bytes that tell the key, then sorted 64-bit keyed hashes of training texts

A sketch has the `LARGEST` smallest hashes of all texts that were ever trained on under the name: exact up to that many,
a sample above (bottom-k: Cohen and Kaplan 2007). Case, width and spaces of a text do not count.

Guarantee: when `require_own_name` returns, the dataset's sketch with these rows is on the disk, and no other dataset
of this state folder that was ever charged has 5 % of the smaller of the two, nor about 10 rows, in common with them,
unless this dataset's ledger carries over what that one has spent (`fedlora ledger carry`). A name that was never
charged is refused beside a charged one without a sketch. It depends on the site's files alone: every task is told the
same.

It cannot see another state folder or another machine, texts that were edited, a dataset whose ledger was removed, two
names that were both charged before there were sketches, nor few rows in a dataset of many more than `LARGEST`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlora.data.membership import digest
from fedlora.deployment.private_files import make_private_folder, write_private
from fedlora.privacy.carried import last_spent, spent_of
from fedlora.privacy.ledger import LedgerFiles, datasets, inspect_ledger, locked
from fedlora.privacy.refusal import Code, Refusal

LARGEST: Final = 2**18
"""Most hashes of one sketch: 2 MiB."""
COMMON_SHARE: Final = 0.05
COMMON_ROWS: Final = 10
Hashes = NDArray[np.uint64]


def hashes_of(texts: Iterable[str], key: bytes) -> Hashes:
    """Sorted distinct hashes; texts that look alike to a reader have the same."""
    return np.unique(np.fromiter((digest(_plain(text), key, "sketch") for text in texts), dtype=np.uint64))


def _plain(text: str) -> str:
    """
    >>> _plain("  The  FLIGHT is\\u00a0late ")
    'the flight is late'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def require_own_name(site: Path, dataset: str, hashes: Hashes, *, key: bytes) -> None:
    """Refuse rows that another name of this site was charged for, and keep the sketch of these. See the top."""
    LedgerFiles(site, dataset)  # the name is a file name
    folder = site / "privacy" / "sketches"
    make_private_folder(folder)
    with locked(folder / ".lock"):
        for other in datasets(site):
            if other != dataset:
                _require_apart(site, dataset, other, hashes, key)
        before = _stored(folder / dataset, key)
        now = hashes if before is None else np.union1d(before, hashes)
        if before is None or not np.array_equal(before, now[:LARGEST]):
            write_private(folder / dataset, _tag(key) + now[:LARGEST].astype(">u8").tobytes())


def known_elsewhere(site: Path, dataset: str, hashes: Hashes, *, key: bytes) -> str | None:
    """The refusal that a private task would meet, for a person; nothing is written."""
    try:
        for other in datasets(site):
            if other != dataset:
                _require_apart(site, dataset, other, hashes, key)
    except Refusal as refusal:
        return str(refusal)
    return None


def _require_apart(site: Path, dataset: str, other: str, hashes: Hashes, key: bytes) -> None:
    sketch = _stored(site / "privacy" / "sketches" / other, key)
    common = None if sketch is None else in_common(hashes, sketch)
    if common == 0:
        return
    mine = inspect_ledger(LedgerFiles(site, dataset)).entries
    if common is None and last_spent(mine, beside=other):
        return  # no new name: it spends what its own ledger counts, as it did before there were sketches
    chain = inspect_ledger(LedgerFiles(site, other))
    last = last_spent(chain.entries, beside=dataset)
    if chain.problem is None and last <= spent_of(mine).through.get(other, 0):
        return
    what = (
        f"there is no record of the rows for which {other!r} was charged"
        if common is None
        else f"about {common} of these rows were charged to the dataset {other!r}"
    )
    raise Refusal(
        Code.KNOWN_DATA,
        f"{what}, and {dataset!r} would start without that spending. Set data.dataset: {other} in client.yaml, "
        f"or carry the spending over: fedlora ledger carry {site} --dataset {dataset} --from {other}",
    )


def in_common(ours: Hashes, sketch: Hashes) -> int:
    """About how many of our rows the sketched dataset has; 0 below both thresholds."""
    bound = int(sketch[-1]) if len(sketch) == LARGEST else 2**64 - 1  # the sketch is complete up to here
    comparable = ours[ours <= np.uint64(bound)]
    shared = len(np.intersect1d(comparable, sketch, assume_unique=True))
    if not shared:
        return 0
    about = round(shared * 2**64 / (bound + 1))
    enough = about >= COMMON_ROWS or shared >= COMMON_SHARE * min(len(comparable), len(sketch))
    return about if enough else 0


def _stored(path: Path, key: bytes) -> Hashes | None:
    """The sketch; None where there is none, or where it was made with another key."""
    content = path.read_bytes() if path.exists() else b""
    if content[:8] != _tag(key) or len(content) % 8:
        return None
    return np.frombuffer(content[8:], dtype=">u8").astype(np.uint64)


def _tag(key: bytes) -> bytes:
    return digest("", key, "sketch key").to_bytes(8, "big")

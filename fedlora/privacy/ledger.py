"""One ledger per site and dataset, across rounds and runs: what was spent, written before the data are touched.

    <site>/privacy/<dataset>/ledger.jsonl      hash-chained lines, appended and fsynced
    <site>/privacy/<dataset>/answers/<task>    the bytes that were released for a finished task
    <site>/privacy/anchors/<dataset>.json      signed sequence number and digest of the last line, fsynced after it; the
                                               first one, of an empty ledger, before the first line

Guarantee, with a crash allowed at every instruction:
 1. When `append` returns, the entry is on the disk and stays in force: the ledger may over-report, never under-report.
 2. A changed line, a removed line, and lines cut off the end are found: `read_ledger` names the first problem and keeps
    what is certain before it; `exclusive_ledger` then refuses to charge.
 3. A last line that a crash cut short was never in force: it is dropped, and an entry says so.
 4. Two processes never append at the same time.
 5. An older ledger that is put back together with its anchor is found by an answer beside it that it never charged.
Whoever puts back the ledger, its anchor *and* the answers is found only by the coordinator, which keeps every receipt's
sequence number and digest. Clocks play no part: an entry's time is for people.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.files import sync_folder, write_atomically
from fedlora.privacy.chain import GENESIS, Chain, Entry, canonical, line_after, read_chain
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.signing import PrivateKey, SignatureError, load_key, public_text, require_signed, sign

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TASK = re.compile(r"[0-9a-f]{64}")
BUSY_S = 60.0
"""Longest wait for another process that holds the ledger: a charge takes milliseconds."""


@dataclass(frozen=True)
class LedgerFiles:
    """Paths of one dataset's ledger at one site."""

    site: Path
    dataset: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.dataset):
            raise ValueError(
                f"the dataset id {self.dataset!r} is used as a file name: use 1 to 100 letters, digits, dots, dashes "
                "and underscores, starting with a letter or digit."
            )

    @property
    def folder(self) -> Path:
        return self.site / "privacy" / self.dataset

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def anchor(self) -> Path:
        return self.site / "privacy" / "anchors" / f"{self.dataset}.json"

    @property
    def key(self) -> Path:
        return self.site / "privacy" / "key.pem"

    @property
    def answers(self) -> Path:
        return self.folder / "answers"

    def answer(self, task: str) -> Path:
        return self.answers / task


def datasets(site: Path) -> list[str]:
    """Every dataset with a ledger or an anchor at the site."""
    folder = site / "privacy"
    ledgers = {path.parent.name for path in folder.glob("*/ledger.jsonl")}
    return sorted(ledgers | {path.stem for path in (folder / "anchors").glob("*.json")})


class Ledger:
    """An open, locked, sound ledger. Only `exclusive_ledger` makes one."""

    def __init__(self, files: LedgerFiles, chain: Chain, key: PrivateKey) -> None:
        self._files = files
        self._key = key
        self._head = chain.head
        self.entries = list(chain.entries)

    def append(self, fields: Mapping[str, Any]) -> Entry:
        """Write one entry; it is on the disk and anchored when this returns."""
        if not self.entries:
            self.anchor()  # from now on a ledger without an anchor is one that lost it
        stamped = {"dataset": self._files.dataset, "time": round(time.time(), 3), **fields}
        entry, line = line_after(self._head, len(self.entries) + 1, stamped)
        descriptor = os.open(self._files.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.write(descriptor, line)
            if written != len(line):
                raise OSError(f"{self._files.ledger}: {written} of {len(line)} bytes written; is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not self.entries:
            sync_folder(self._files.folder)
        self.entries.append(entry)
        self._head = entry.digest
        self.anchor()
        return entry

    def anchor(self) -> None:
        """Write the anchor: the signed length and last digest of the ledger."""
        statement = _statement(self._files.dataset, len(self.entries), self._head)
        content = canonical({**statement, "signature": sign(self._key, canonical(statement))})
        write_atomically(self._files.anchor, content)
        _ANCHORED[self._files.anchor] = (self._head, content)


@contextmanager
def exclusive_ledger(files: LedgerFiles, key: PrivateKey) -> Iterator[Ledger]:
    """The ledger, locked against every other process, ready to append. Refuses a damaged one."""
    files.folder.mkdir(parents=True, exist_ok=True)
    files.anchor.parent.mkdir(parents=True, exist_ok=True)
    with locked(files.folder / "lock"):
        chain = read_ledger(files, public_key=public_text(key))
        if chain.problem is not None:
            raise Refusal(
                Code.LEDGER_DAMAGED,
                f"the ledger {files.ledger} cannot be trusted: {chain.problem}. Training on this dataset is blocked "
                "until an administrator has checked it (`fedlora ledger verify`) and restored it.",
            )
        ledger = Ledger(files, chain, key)
        if chain.torn_bytes:
            os.truncate(files.ledger, chain.sound_bytes)
            ledger.append({"kind": "repaired", "torn_bytes": chain.torn_bytes})
        elif chain.entries and not _is_anchored_here(files, chain):
            ledger.anchor()  # a crash may have come between the last line and its anchor
        yield ledger


_ANCHORED: dict[Path, tuple[str, bytes]] = {}
"""What this process has anchored last, and knows to be on the disk: the last line's digest, the anchor's bytes."""


def _is_anchored_here(files: LedgerFiles, chain: Chain) -> bool:
    """Whether this process has anchored the very last line, and the anchor is byte for byte as it wrote it."""
    head, written = _ANCHORED.get(files.anchor, ("", b""))
    return head == chain.head and files.anchor.exists() and files.anchor.read_bytes() == written


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file, waiting at most `BUSY_S`. One that was deleted meanwhile, and made anew by another process,
    locks nothing: it is opened again."""
    until = time.monotonic() + BUSY_S
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Refusal(
                        Code.LEDGER_BUSY,
                        f"another process has locked {path} for {BUSY_S:g} s; stop it, or wait, then send the task "
                        "again.",
                    ) from None
                time.sleep(0.01)
                continue
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                yield
                return


@contextmanager
def hold_ledger(files: LedgerFiles) -> Iterator[None]:
    """Nothing is charged meanwhile: for whoever copies ledger, anchor and answers as of one moment. Refusal if another
    process holds it too long."""
    with locked(files.folder / "lock") if files.folder.is_dir() else nullcontext():
        yield


def read_ledger(files: LedgerFiles, *, public_key: str | None) -> Chain:
    """The entries that are certain, and the first problem. Without a public key the anchor's signature is not
    checked."""
    content = files.ledger.read_bytes() if files.ledger.exists() else b""
    chain = read_chain(content)
    problem = chain.problem or _against_anchor(chain, files, public_key) or _against_answers(chain, files)
    return Chain(chain.entries, chain.sound_bytes, chain.torn_bytes, problem)


def inspect_ledger(files: LedgerFiles) -> Chain:
    """The entries that are certain, read while a client may be running: waits while an entry and its anchor are being
    written.

    Without the site's key nothing says who wrote the anchor: that is a problem too.
    """
    lock = files.folder / "lock"
    public_key = public_text(load_key(files.key)) if files.key.exists() else None
    with locked(lock) if os.access(lock, os.W_OK) else nullcontext():
        chain = read_ledger(files, public_key=public_key)
    if public_key is None and chain.entries and chain.problem is None:
        return replace(chain, problem=f"the site's key {files.key} is missing: its anchor cannot be verified")
    return chain


def _against_anchor(chain: Chain, files: LedgerFiles, public_key: str | None) -> str | None:
    if not files.anchor.exists():
        return "its anchor is missing" if chain.entries or chain.torn_bytes else None
    try:
        content = files.anchor.read_bytes()
        anchor = json.loads(content)
        sequence, digest, signature = int(anchor["sequence"]), str(anchor["digest"]), str(anchor["signature"])
        statement = _statement(files.dataset, sequence, digest)
        if sequence < 0 or content != canonical({**statement, "signature": signature.lower()}):
            return "its anchor cannot be read"
        if public_key is not None:
            require_signed(public_key, canonical(statement), signature)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, SignatureError):
            return "its anchor is not signed with this site's key"
        return "its anchor cannot be read"
    if len(chain.entries) < sequence:
        return f"it was cut: {len(chain.entries)} entries are left of {sequence}"
    if (chain.entries[sequence - 1].digest if sequence else GENESIS) != digest:
        return f"entry {sequence} is not the anchored one: the ledger was rewritten"
    if len(chain.entries) > sequence + 1:
        return f"{len(chain.entries)} entries, but only {sequence} were anchored"
    return None


def _against_answers(chain: Chain, files: LedgerFiles) -> str | None:
    """Every answer was charged before it was made, so one without a charge is younger than this ledger."""
    charged = {entry.fields.get("task") for entry in chain.entries if entry.kind == "charge"}
    names = sorted(path.name for path in files.answers.glob("*")) if files.answers.is_dir() else []
    unknown = [name for name in names if _TASK.fullmatch(name) and name not in charged]
    if not unknown:
        return None
    return (
        f"it is an older copy: {len(unknown)} answer(s) stored with it were never charged in it, such as "
        f"{unknown[0][:16]}"
    )


def _statement(dataset: str, sequence: int, digest: str) -> dict[str, Any]:
    return {"dataset": dataset, "sequence": sequence, "digest": digest}

"""Models in files that `from_pretrained` does not train from, converted once into a folder that it loads.

The folders are in `$XDG_CACHE_HOME/fedlora/models`, or `~/.cache/fedlora/models`; any of them may be deleted at any
time. A folder's name is the hash of the file and of what converted it: another file, or another version of a library
that reads it, has a folder of its own.

Guarantee: what `converted` returns is, byte for byte, what one conversion wrote. Of several processes one converts and
the others wait for it; a folder that is damaged, or half written because its process died, is written anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from fedlora.settings import SettingsError

log = logging.getLogger("fedlora.models")

CONTENTS = "contents.json"
"""The digest of every file of the folder: written last, so that what a dead process left behind has none."""

Convert = Callable[[Path, Path], None]
"""Reads the file and writes the folder, which is empty; SettingsError where the file cannot be read."""


def converted(source: Path, *, by: str, convert: Convert) -> Path:
    """The folder that `convert` made, or makes, of the file; `by` names everything that decides what it writes.

    Both the file and the folder are hashed once per process, not per call.
    """
    there = source.stat()
    return _converted(source.resolve(), (there.st_size, there.st_mtime_ns), by, convert, cache_folder())


def cache_folder() -> Path:
    """Of converted models; whether it exists is another matter."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()  # a relative one is ignored
    return cache / "fedlora" / "models"


@lru_cache(maxsize=8)
def _converted(source: Path, seen: tuple[int, int], by: str, convert: Convert, cache: Path) -> Path:
    """`seen`: size and time of the file: with others it is another one."""
    folder = cache / hashlib.sha256(f"{by}\0{digest_of(source)}".encode()).hexdigest()[:32]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(folder, fcntl.LOCK_SH):
            if is_whole(folder):
                return folder
        with _locked(folder, fcntl.LOCK_EX):
            if not is_whole(folder):  # another process may have written it while this one waited
                _write(folder, source, convert)
    except OSError as error:
        raise SettingsError(
            f"the converted copy of {source.name} cannot be kept in {cache}: {error.strerror or error}. It needs room "
            "for its weights in float32; set XDG_CACHE_HOME to a folder that has it."
        ) from None
    return folder


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """Hold the folder's lock, shared or alone, waiting as long as others do; the kernel lets go when a holder dies."""
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _write(folder: Path, source: Path, convert: Convert) -> None:
    """Under the lock: into a folder beside it, which then takes its name at once."""
    if folder.exists():
        log.warning("the converted copy of %s in %s is damaged: it is written anew", source.name, folder)
        shutil.rmtree(folder)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    log.info("converting %s, once, into %s", source, folder)
    try:
        convert(source, unfinished)
        contents = {path.name: digest_of(path) for path in sorted(unfinished.iterdir())}
        (unfinished / CONTENTS).write_text(json.dumps(contents, indent=2), encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether the folder holds every file that was written into it, unchanged, and no other."""
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
        files = {path.name for path in folder.iterdir()} - {CONTENTS}
        return files == set(contents) and all(digest_of(folder / name) == contents[name] for name in sorted(files))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

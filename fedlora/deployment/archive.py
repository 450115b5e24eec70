"""Backups: one tar file of mode 0600 with a digest of every file, and a folder that is made of it whole or not at all.

Guarantee: `write_archive` replaces no file and leaves none behind when it fails; what is copied of a file is what it
held at one moment, however it is replaced or appended to meanwhile. `restore_archive` writes nothing before every
digest in the archive was compared, nothing outside the folder, and the file that the folder cannot work without last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fedlora import __version__
from fedlora.deployment.private_files import make_private_folder, write_private
from fedlora.files import sync_folder
from fedlora.settings import Settings, SettingsError, parse

CONTENTS = "fedlora-backup.json"
CHUNK = 1 << 20
PASSING = re.compile(r"\..*\.tmp|.*\.lock|lock|fedlora-.*\.tar")
"""Names of files that are of no use later: temporary ones, locks, backups."""


class About(Settings):
    """A backup's description, its last member, so that a truncated archive has none."""

    kind: str
    """coordinator or site."""

    name: str
    version: str
    """fedlora's."""

    made: float
    """Seconds since 1970, before the first file was read."""

    digests: dict[str, str]
    """SHA-256 of every file, by its path in the folder."""

    more: Mapping[str, Any]
    """Details for the kind's own restore."""


def files_below(folder: Path, *, skip: Iterable[str] = ()) -> Iterator[str]:
    """Paths of regular files below `folder`, in order; links and what is in `skip` (folders or files) are left out."""
    left_out = {PurePosixPath(path) for path in skip}
    for root, folders, names in os.walk(folder):
        here = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if PurePosixPath(here / name) not in left_out)
        for name in sorted(names):
            regular = stat.S_ISREG((Path(root) / name).lstat().st_mode)
            if regular and not PASSING.fullmatch(name) and PurePosixPath(here / name) not in left_out:
                yield (here / name).as_posix()


def write_archive(
    path: Path, sources: Iterable[tuple[str, Path]], *, kind: str, name: str, more: Mapping[str, Any]
) -> About:
    """Make the archive; a file that is gone when its turn comes is left out. SettingsError if `path` is there."""
    made, digests = time.time(), dict[str, str]()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} already exists and is not overwritten; choose another --out.") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for member, source in sources:
                    if (digest := _add(tar, member, source)) is not None:
                        digests[member] = digest
                about = About(kind=kind, name=name, version=__version__, made=made, digests=digests, more=dict(more))
                content = about.model_dump_json(indent=1).encode()
                tar.addfile(_member(CONTENTS, len(content)), io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return about


def read_about(path: Path, *, kind: str) -> About:
    """What is in an archive, every byte compared with its digest. SettingsError if it is damaged, or another kind's."""
    found, content = dict[str, str](), None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name == CONTENTS:
                    content = _open(tar, member).read()
                else:
                    found[_safe(member)] = _digest(_open(tar, member))
        about = parse(About, json.loads(content or b"null") or {}, prefix=CONTENTS)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}.") from None
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise SettingsError(
            f"{path} is not a complete backup ({type(error).__name__}: {error}); use another one."
        ) from None
    if about.kind != kind:
        raise SettingsError(f"{path} is the backup of a {about.kind}, not of a {kind}.")
    if found != about.digests:
        damaged = sorted(
            name for name in found.keys() | about.digests.keys() if found.get(name) != about.digests.get(name)
        )
        raise SettingsError(f"{path} is damaged at {', '.join(damaged[:3])}; use another backup.")
    return about


def restore_archive(path: Path, folder: Path, *, kind: str, last: str) -> About:
    """Make `folder` of the archive; `last` is the file without which nothing starts. SettingsError if the folder holds
    anything: a backup overwrites nothing."""
    about = read_about(path, kind=kind)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} exists and is not empty; nothing was overwritten. Choose another folder.")
    make_private_folder(folder)
    kept = b""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name == CONTENTS:
                continue
            target = folder / _safe(member)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if member.name == last:
                kept = _open(tar, member).read()
            else:
                _write(target, _open(tar, member))
    write_private(folder / last, kept)
    return about


def _add(tar: tarfile.TarFile, name: str, source: Path) -> str | None:
    """As many bytes as the file has when it is opened: what is appended meanwhile is not of this moment."""
    try:
        file = source.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        reader = _Digested(file)
        tar.addfile(_member(name, size), reader)
        return reader.digest.hexdigest()


class _Digested(io.RawIOBase):
    """What is read of a file passes through a digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        return content


def _member(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode, made.mtime = size, 0o600, int(time.time())
    return made


def _safe(member: tarfile.TarInfo) -> str:
    """Its path, if it is one inside a folder and the member a plain file; ValueError otherwise."""
    path = PurePosixPath(member.name)
    if not member.isreg() or path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{member.name!r} is not a file inside a folder")
    return path.as_posix()


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name!r} is not a file")
    return file


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _write(target: Path, source: IO[bytes]) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())

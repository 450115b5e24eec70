"""Checks of the bundle that a coordinator ships, before it is unpacked: configuration is accepted, code is not.

Flower would unpack the bundle, put its folder first on `sys.path` and import from it. Here a bundle that holds nothing
but configuration is never unpacked at all - the site runs the client that it installed - and one that carries anything
else runs only where the site has allowed its hash.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection
from enum import StrEnum
from pathlib import PurePosixPath

CONFIGURATION = frozenset({".toml", ".yaml", ".yml", ".json", ".md", ".txt"})
NAMES = frozenset({"LICENSE", "CONTENT", ".gitignore"})
MOST_FILES, MOST_BYTES = 100, 4 * 1024 * 1024


class BundleError(Exception):
    """A bundle that may not run here; `code` is all that leaves the site."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Kind(StrEnum):
    """Kinds of accepted bundles."""

    CONFIGURATION = "configuration"
    ALLOWED_CODE = "allowed-code"


def admit(content: bytes, *, allowed: Collection[str]) -> Kind:
    """The bundle's kind, or a BundleError. `allowed` are SHA-256 of bundles with code that may run here."""
    digest = hashlib.sha256(content).hexdigest()  # our own: the hash that came with it is a claim
    if digest in allowed:
        return Kind.ALLOWED_CODE
    for entry in _entries(content):
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise BundleError("bundle-malformed", f"the bundle names the path {entry.filename!r}")
        if not entry.is_dir() and path.suffix not in CONFIGURATION and path.name not in NAMES:
            raise BundleError(
                "bundle-not-allowed",
                f"the bundle contains {entry.filename!r}, whose hash is not listed in allow_bundles in client.yaml; "
                f"if you have read this file and trust it, add: {digest}",
            )
    return Kind.CONFIGURATION


def _entries(content: bytes) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise BundleError("bundle-malformed", "the bundle is not a zip archive") from None
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES or size > MOST_BYTES:
        raise BundleError(
            "bundle-malformed",
            f"the bundle has {len(entries)} files of {size} bytes; at most {MOST_FILES} of {MOST_BYTES} are accepted",
        )
    return entries

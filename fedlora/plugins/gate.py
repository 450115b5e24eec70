"""Whose code this process may load by a name in a recipe or a message: nobody's, until it is opened.

    a command that a person types on their own machine   open to any
    a simulation                                         open to any
    a coordinator, its dashboard                         what server.yaml lists under `plugins`
    a site                                               what policy.yaml lists under `plugins`

A listed package is known by the hash of its files, which `fedlora plugins` prints: a package that was changed after
somebody had read it is another one.

Guarantee: before the first line of a plug-in is executed, `require_open` has returned for the package that the module
is found in, or a SettingsError names the package, the file to list it in and the line to write. What that package
imports itself is no part of its hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedlora.plugins.names import Kind, is_plug_in, target_of
from fedlora.settings import SettingsError

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Packages = Mapping[str, Hash] | Literal["any"]
"""Importable packages by name, with the hash of their files."""

_open_to: Packages = {}


def open_to(packages: Packages) -> None:
    """From here on this process loads these packages' plug-ins, and no others."""
    global _open_to
    _open_to = packages


def opened_to() -> Packages:
    """What this process may load."""
    return _open_to


def require_open(kind: Kind, name: str, target: str) -> None:
    """SettingsError unless this process was opened to the package of `target` as its files are now."""
    why = not_allowed(target, _open_to)
    if why is not None:
        raise SettingsError(
            f"{kind.setting}={name!r} is a plug-in, and {why} (a coordinator's list is in server.yaml, a site's in "
            "policy.yaml)"
        )


def require_open_for(kind: Kind, name: str, own: Collection[str]) -> None:
    """`require_open` for a name that is a plug-in's; any other is fedlora's `own`, a path or nothing."""
    target = target_of(kind, name) if is_plug_in(kind, name, own) else None
    if target is not None:
        require_open(kind, name, target)


def not_allowed(target: str, packages: Packages) -> str | None:
    """Why these packages do not include the plug-in's, with the way out; None where they do."""
    package = package_of(target)
    if packages == "any":
        return None
    found = hash_of(package)
    if found is None:
        return f"this Python has no files of its package {package}; install it."
    line = f"plugins: {json.dumps({package: found})}"
    if package not in packages:
        return f"its package {package} is not listed under `plugins`; once you have read its code, write {line}"
    if packages[package] != found:
        return (
            f"the files of its package {package} are not those that were listed (by their hash {packages[package]}); "
            f"once you have read what has changed, write {line}"
        )
    return None


def package_of(target: str) -> str:
    """The outermost package of `module:Thing`.

    >>> package_of("my.own.module:Thing")
    'my'
    """
    return target.partition(":")[0].partition(".")[0]


def hash_of(package: str) -> str | None:
    """SHA-256 of the names and bytes of a package's files, compiled ones apart; None where it is not installed.

    Nothing is imported: only the outermost package is looked for.
    """
    digest, found = hashlib.sha256(), False
    for place, name, path in _files(package):
        content = path.read_bytes()
        digest.update(f"{place} {name} {len(content)}\n".encode() + content)
        found = True
    return digest.hexdigest() if found else None


def _files(package: str) -> Iterator[tuple[int, str, Path]]:
    """Every file in the order of names; a package in several folders (without an `__init__.py`) has all of theirs."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None and Path(spec.origin).is_file():
            yield 0, Path(spec.origin).name, Path(spec.origin)
        return
    for place, folder in enumerate(map(Path, spec.submodule_search_locations)):
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            yield place, path.relative_to(folder).as_posix(), path

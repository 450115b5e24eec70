"""The four plug-ins of this folder as a process finds them: on its path, or registered as an installation does it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedlora.plugins.names import registered
from fedlora.tasks.registry import task_named

HERE = Path(__file__).parent
FOLDERS = {kind: HERE / kind for kind in ("strategy", "task", "source", "optimizer")}


@contextmanager
def installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, groups: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[None]:
    """`folder` on the path and, with `groups`, what an installer writes: entry points by group and name."""
    if groups is not None:
        written = folder / f"{folder.name}-1.0.dist-info"
        written.mkdir(parents=True)
        (written / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1.0\n")
        parts = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
        (written / "entry_points.txt").write_text("\n".join(parts))
    with monkeypatch.context() as context:
        context.syspath_prepend(str(folder))
        _forget()
        yield
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    registered.cache_clear()
    task_named.cache_clear()

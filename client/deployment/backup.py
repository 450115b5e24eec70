"""A site's backup: keys, settings, policy, and the ledger as of one moment. Not the data, Flower's files or logs.

A ledger that is put back forgets what was spent after it was copied. The site alone cannot see that; the coordinator's
receipts can, and it then refuses the site's updates (`bad-receipt`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from client.settings import ClientSettings, load_client
from fedlora.deployment.archive import About, files_below, read_about, restore_archive, write_archive
from fedlora.privacy.ledger import LedgerFiles, datasets, hold_ledger, inspect_ledger
from fedlora.privacy.refusal import Refusal
from fedlora.settings import SettingsError

KIND, LAST = "site", "client.yaml"
SKIP = ("flower", "logs", "processes.json")


def back_up(settings: ClientSettings, out: Path) -> About:
    """Write the archive while no ledger changes. SettingsError if `out` is there already."""
    entries: dict[str, Any] = {}
    with ExitStack() as stack:
        for dataset in datasets(settings.state):
            files = LedgerFiles(settings.state, dataset)
            entries[dataset] = [len(inspect_ledger(files).entries), _last_time(files)]
            try:
                stack.enter_context(hold_ledger(files))
            except Refusal as error:
                raise SettingsError(str(error)) from None
        sources = list(_files(settings, out))
        return write_archive(out, sources, kind=KIND, name=settings.site, more={"ledgers": entries})


def restore(archive: Path, folder: Path) -> tuple[About, ClientSettings]:
    """A folder that `client up` can go on with; its settings. SettingsError if the folder holds anything."""
    about = restore_archive(archive, folder, kind=KIND, last=LAST)
    return about, load_client(folder / LAST)


def ledgers_in(archive: Path) -> tuple[About, dict[str, tuple[int, float | None]]]:
    """Entries of every ledger in an archive, and the time of the last one. SettingsError if the archive is damaged."""
    about = read_about(archive, kind=KIND)
    return about, {name: (int(count), at) for name, (count, at) in about.more.get("ledgers", {}).items()}


def _last_time(files: LedgerFiles) -> float | None:
    entries = inspect_ledger(files).entries
    at = entries[-1].fields.get("time") if entries else None
    return float(at) if isinstance(at, int | float) else None


def _files(settings: ClientSettings, out: Path) -> Iterator[tuple[str, Path]]:
    """The folder's files and, under `state/`, those of a state that lies elsewhere; the data stay where they are."""
    folder = settings.folder
    data = {path.resolve() for path in (settings.data.train, settings.data.test) if path is not None}
    for name in files_below(folder, skip=SKIP):
        path = (folder / name).resolve()
        if path not in data and path != out.resolve():
            yield name, folder / name
    if not settings.state.resolve().is_relative_to(folder):
        yield from ((f"state/{name}", settings.state / name) for name in files_below(settings.state))

"""The adapter of a run as one file: the finished one, else the newest that was exported while it ran."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from server.store.rows import RunRow


def newest_adapter(run: RunRow) -> Path | None:
    """The folder with it; None where there is none yet, or the run's folder is on another machine."""
    folder = Path(run.folder)
    try:
        finished = [folder / name for name in ("adapter", "adapters") if (folder / name).is_dir()]
        exported = sorted(path for path in (folder / "exports").glob("round-*") if path.is_dir())
    except OSError:
        return None
    if run.state == "finished" and finished:
        return finished[0]
    return exported[-1] if exported else None


def packed(folder: Path) -> bytes:
    """A zip file with everything in the folder. Adapters are small: it is made in memory."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder.parent))
    return content.getvalue()

"""The adapter of a run as one file: the finished one, else the newest that was exported while it ran."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response

from fedlora.settings import SettingsError
from server.dashboard.doors.access import Principal, Role, require
from server.dashboard.state import AppState
from server.store.reading import find_run
from server.store.rows import RunRow

Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]


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


def add_download(app: FastAPI, board: AppState) -> None:
    """GET /run/NAME/adapter.zip, for operators; who took it is in the audit log."""

    async def download(name: str, principal: Operator) -> Response:
        try:
            run = await board.read(lambda connection: find_run(connection, name))
        except SettingsError as problem:
            raise HTTPException(404, str(problem)) from None
        folder = newest_adapter(run)
        if folder is None:
            raise HTTPException(404, f"{run.name} has no adapter on this machine; export one, or look in {run.folder}.")
        await board.audit(principal.name, "adapter-downloaded", run=run.run, folder=str(folder))
        named = {"Content-Disposition": f'attachment; filename="{run.run[:8]}-{folder.name}.zip"'}
        return Response(packed(folder), media_type="application/zip", headers=named)

    app.add_api_route("/run/{name}/adapter.zip", download, include_in_schema=False)

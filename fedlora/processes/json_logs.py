"""Logs of long-running processes: a JSON object a line, and one older file kept."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

ROTATE_BYTES = 16 * 1024 * 1024


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and whatever else was given."""

    STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in self.STANDARD}
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_json_lines() -> None:
    """Structured logs on standard error, for the long-running commands."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs every call to Flower


def rotate(path: Path) -> None:
    """Keep one older log. It is copied and then emptied, for the child holds it open, and appends; a line that comes in
    between is lost. Where the copy fails (a full disk) neither is touched, and the log grows on."""
    if not path.exists() or path.stat().st_size <= ROTATE_BYTES:
        return
    copy = path.with_suffix(".log.new")
    try:
        shutil.copyfile(path, copy)
        copy.replace(path.with_suffix(".log.1"))
    finally:
        copy.unlink(missing_ok=True)
    os.truncate(path, 0)

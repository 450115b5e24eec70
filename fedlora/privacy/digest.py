"""Digest of a task, by which two deliveries are known to be the same (docs/decisions/0006). Both sides compute it: a
receipt names its task, and the coordinator knows which task it sent."""

from __future__ import annotations

import hashlib

from fedlora.privacy.chain import canonical
from fedlora.protocol.task import Task
from fedlora.protocol.versions import agreed


def task_digest(task: Task, state: bytes) -> str:
    """Of every setting as it was sent, before a site puts its own device in, and of the state to start from.

    The same for every version (`fedlora.protocol.versions`).
    """
    return hashlib.sha256(_settings_of(task) + b"\0" + state).hexdigest()


_last: tuple[Task, bytes] | None = None
"""The newest task's settings: a coordinator and the clients of one process ask for the same object again and again."""


def _settings_of(task: Task) -> bytes:
    global _last
    known = _last
    if known is not None and known[0] is task:
        return known[1]
    settings: bytes = canonical(agreed(task))
    _last = (task, settings)
    return settings

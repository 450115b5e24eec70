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
    return hashlib.sha256(canonical(agreed(task)) + b"\0" + state).hexdigest()

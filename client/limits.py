"""Memory limit of training at a site: exceeding it costs a round's update, not the process.

A container or a systemd unit that passes its bound is killed, and its round is lost in silence. Here an allocation that
would pass it fails, and the round is answered with the code `out-of-memory`.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from client.settings import Limits
from fedlora.processes.memory import ran_out_of_memory
from fedlora.settings import SettingsError

MIB = 1024 * 1024
OUT_OF_MEMORY = "out-of-memory"


def limit_memory(limits: Limits) -> None:
    """Limit this process's memory. SettingsError if the system cannot, or the limit is already exceeded."""
    if limits.memory_mib is None:
        return
    if sys.platform != "linux":
        raise SettingsError("limits.memory_mib needs Linux; remove it and limit the container's memory instead.")
    taken_mib = data_bytes() / MIB
    if taken_mib > limits.memory_mib:
        raise SettingsError(
            f"limits.memory_mib is {limits.memory_mib}, and {taken_mib:.0f} MiB are used before any model is "
            "loaded; raise it."
        )
    # RLIMIT_DATA counts private writable memory (Linux 4.7), and not the address space that CUDA reserves.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_mib * MIB, limits.memory_mib * MIB))


def data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def code_of(error: Exception) -> str:
    """The code for an exception: `out-of-memory`, otherwise `internal-error` and nothing more."""
    return OUT_OF_MEMORY if ran_out_of_memory(error) else "internal-error"

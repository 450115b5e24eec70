"""A GPU that has failed: from then on every call to it fails in this process, whatever it computes.

A token or a label out of range ends in a device-side assert, which is such a failure, and comes to light at some later
line. Tasks look at rows on the host, before they are copied (`TaskKind.usable`), so that no row can cause it.
"""

from __future__ import annotations

import logging

import torch

from fedlora.devices.draws import on_cuda
from fedlora.processes.memory import ran_out_of_memory

log = logging.getLogger(__name__)

FAILED = "AcceleratorError"  # torch's, since 2.8: by its name, which an older torch does not have
SAYINGS = ("device-side assert", "CUDA error:", "HIP error:")
"""What an older torch says in a plain RuntimeError."""


def device_is_lost(error: BaseException) -> bool:
    """Whether the process can compute nothing more on its GPU. Memory that has run out can be given back.

    >>> device_is_lost(RuntimeError("CUDA error: device-side assert triggered"))
    True
    >>> device_is_lost(RuntimeError("CUDA error: out of memory")), device_is_lost(RuntimeError("shapes do not fit"))
    (False, False)
    """
    if ran_out_of_memory(error):
        return False
    said = isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)
    return type(error).__name__ == FAILED or said


def require_device() -> None:
    """SystemExit where this process has lost its GPU: a supervisor starts another, which has it again."""
    if not on_cuda():
        return
    try:
        torch.cuda.synchronize()
    except Exception:
        log.exception("the GPU has failed in this process, which ends")
        raise SystemExit(1) from None

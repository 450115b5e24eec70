"""Whether an error says that memory has run out: torch says so in several ways, and is not imported for it."""

from __future__ import annotations

CUDA_FAILED = "OutOfMemoryError"  # torch's own, of every accelerator: by its name, since torch is not there yet
SAYINGS = (
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same, on Windows
    "out of memory",  # CUDA's and MPS's runtime, outside of torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a plain RuntimeError says then."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the same work in smaller pieces might go through.

    >>> ran_out_of_memory(MemoryError()), ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    >>> ran_out_of_memory(RuntimeError("shapes do not fit"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == CUDA_FAILED:
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)

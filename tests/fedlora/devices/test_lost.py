"""A GPU that has failed ends the process, and never counts as one example that cannot be computed."""

from __future__ import annotations

import pytest
import torch

from fedlora.devices import lost
from fedlora.devices.lost import device_is_lost, require_device

ASSERT = torch.AcceleratorError("CUDA error: device-side assert triggered") if hasattr(torch, "AcceleratorError") else (
    RuntimeError("CUDA error: device-side assert triggered")
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (ASSERT, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (IndexError("index out of range in self"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_failure_that_nothing_survives_is_known(error, is_lost):
    assert device_is_lost(error) is is_lost


def test_a_process_without_its_gpu_ends_and_one_that_has_none_goes_on(monkeypatch):
    require_device()
    monkeypatch.setattr(lost, "on_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    require_device()

    def fails() -> None:
        raise ASSERT

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(SystemExit):
        require_device()

"""Looking for a model's draws costs next to nothing: it is done a dozen times in every private round."""

from __future__ import annotations

import traceback

import pytest
import torch

from fedlora.privacy.chance import without_draws
from fedlora.privacy.refusal import Refusal


def test_no_call_stack_is_written_down_for_devices_that_are_not_in_use(monkeypatch):
    """`torch.manual_seed` writes one for CUDA, XPU and every other kind."""
    monkeypatch.setattr(traceback, "format_stack", lambda *_: pytest.fail("a stack was written down"))
    assert without_draws(1, lambda: 2) == 2


def test_torch_is_started_from_the_number():
    """What a draw gives is seen before it is refused."""
    drawn: list[float] = []
    for number in (1, 1, 2):
        with pytest.raises(Refusal, match="draws from torch's"):
            without_draws(number, lambda: drawn.append(float(torch.rand(()))))
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == float(torch.rand((), generator=torch.Generator().manual_seed(1)))

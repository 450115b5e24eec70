"""What must hold on every device, where there is one: `make gpu` checks the same."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.checks import CHECKS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", CHECKS)
def test_on_cuda(name):
    figure, bound = CHECKS[name]("cuda")
    assert figure <= bound

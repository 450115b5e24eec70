"""The short drill, for every change: the faults that have cost runs before. `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.drill import drill

SHORT = [
    "executor killed while it trains",
    "ServerApp killed while it aggregates",
    "corrupted checkpoint",
    "SuperLink killed",
    "full disk at a site",
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_survives_killed_processes_a_corrupted_checkpoint_and_a_full_disk(tmp_path):
    sound = drill(tmp_path, SHORT, pause_s=6.0, timeout_s=600)
    assert [item.fault for item in sound.injected if item.hit] == SHORT
    assert sound.charged >= sound.acknowledged > 0

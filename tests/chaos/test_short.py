"""The short drill, for every change: the faults that have cost runs before. `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.catalogue import FAULTS
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
    sound = drill(tmp_path, SHORT, for_s=600)
    assert [item.fault for item in sound.injected if item.seen.happened and item.seen.at_its_moment] == SHORT
    assert sound.charged >= sound.acknowledged > 0


def test_the_long_drill_has_at_least_forty_five_faults():
    assert len(FAULTS) >= 45
    assert set(SHORT) <= set(FAULTS)

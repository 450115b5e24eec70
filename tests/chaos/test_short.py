"""The short drill, for every change: the faults that have cost runs before. `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.drill import drill

SHORT = ["kill -9 the executor", "kill -9 the ServerApp", "kill -9 the SuperLink", "full disk at a site"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_survives_killed_processes_and_a_full_disk(tmp_path):
    injected = drill(tmp_path, SHORT, rounds=12, pause_s=8.0, timeout_s=420)
    assert [item.fault for item in injected] == SHORT

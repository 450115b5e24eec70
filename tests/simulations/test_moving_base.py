"""A base that moves in a whole run: who is asked now and then is sent what it lacks, from the version that it holds."""

from __future__ import annotations

import pytest

from fedlora.protocol.task import JSON_KEY, TASK_RECORD, Task
from fedlora.protocol.versions import recorded
from server.record.checkpoint import read
from simulations.local_grid import Fault
from strategies.registry import named
from tests.federations import run
from tests.simulations.test_run import adapter_bytes, rounds_without_timings


@pytest.mark.parametrize("strategy", named(moves_base=True))
def test_sites_that_come_and_go_follow_a_base_whose_past_is_merged(recipe, tmp_path, strategy):
    since: list[tuple[int, int]] = []

    def spy(node: int, message) -> Fault | None:
        task = Task.model_validate_json(message.content.config_records[TASK_RECORD][JSON_KEY])
        since.append((task.residual_since, task.base_version))
        return None

    settings = recipe(f"strategy.name={strategy}", "rounds.count=9", "rounds.fraction=0.5")
    run(settings, tmp_path / "run", faults=spy)
    lines = rounds_without_timings(tmp_path / "run")
    assert all(client["outcome"] == "trained" for line in lines for client in line["clients"])
    assert max(line["aggregation_error"] for line in lines) < 1e-5
    state = read(tmp_path / "run/checkpoint.safetensors", recipe=recorded(settings)).state
    assert (state.base_version, state.merged > 0) == (9, True)
    assert any(0 < start < version for start, version in since)  # from the version that a site holds
    assert any(start == 0 < version for start, version in since)  # newcomers, and who holds a merged version

    started = recipe(f"strategy.name={strategy}", "rounds.count=6", "rounds.fraction=0.5")
    run(started, tmp_path / "resumed")
    run(settings, tmp_path / "resumed", resume=True)
    assert adapter_bytes(tmp_path / "resumed") == adapter_bytes(tmp_path / "run")
    assert rounds_without_timings(tmp_path / "resumed") == lines

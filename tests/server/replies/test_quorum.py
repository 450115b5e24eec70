"""The quorum is rounded up: of four clients and 0.6, three must answer, not two."""

from __future__ import annotations

import pytest

from server.replies.quorum import QuorumError
from simulations.local_grid import FIRST_NODE, Fault
from tests.federations import run


def silent(count: int):
    """The first `count` clients fail."""
    return lambda node, message: Fault("error") if node - FIRST_NODE < count else None


@pytest.mark.parametrize(("share", "needed"), [(0.6, 3), (0.5, 2), (0.51, 3), (0.76, 4), (0.01, 1)])
def test_exactly_so_many_valid_updates_are_enough(recipe, tmp_path, share, needed):
    settings = recipe("rounds.count=1", f"rounds.quorum={share}", "rounds.min_clients=4")
    assert run(settings, tmp_path / "enough", faults=silent(4 - needed))["rounds"] == 1
    with pytest.raises(QuorumError, match=f"{needed - 1} of 4 clients sent a valid update, needed {needed}"):
        run(settings, tmp_path / "too-few", faults=silent(4 - needed + 1))

"""While a process imports what it needs nothing is looked for that could be freed; afterwards it is as it was."""

from __future__ import annotations

import gc

import pytest

from fedlora.processes.imports import without_collecting


@pytest.fixture
def collecting(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("collecting", [True, False], indirect=True)
def test_nothing_is_collected_meanwhile_and_an_error_changes_nothing(collecting):
    seen = []

    @without_collecting()
    def fails() -> None:
        seen.append(gc.isenabled())
        raise ImportError("not there")

    with pytest.raises(ImportError, match="not there"):
        fails()
    assert seen == [False]
    assert gc.isenabled() is collecting

"""A short run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

from tests.fuzz.fuzz_wire import run


def test_mutants_are_refused_or_harmless():
    seen = run(seconds=20.0, seed=1)
    assert sum(seen.values()) > 2_000
    assert {"wrong-length", "bad-indices", "bad-values", "wrong-task", "corrupt"} <= seen.keys()

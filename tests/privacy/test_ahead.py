"""The guarantee at the top of fedlora/privacy/ahead.py, one test per sentence."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from fedlora.privacy import ahead
from fedlora.privacy.ahead import Drawn
from fedlora.privacy.noise import SecureSource, SeededSource, Stream
from tests.privacy.models import Examples, classifier
from tests.privacy.test_engine import engine_of

KEY = bytes(range(32))


class Recorded(SeededSource):
    """Every stream that was taken from it, and the thread that took it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.taken: list[str] = []

    def fresh(self) -> Stream:
        self.taken.append(threading.current_thread().name)
        return super().fresh()


@pytest.fixture
def beside(monkeypatch):
    """As if gradients were computed on a GPU."""
    monkeypatch.setattr(ahead, "works_beside", lambda device: True)


def released(steps: int, source=None) -> list[list[torch.Tensor]]:
    examples, model = Examples(16), classifier()
    found = []
    with engine_of(model, steps=steps, source=source or SeededSource(4)) as engine:
        for _ in range(steps):
            engine.step(examples.loss(model))
            found.append([p.grad.clone() for p in engine._trained])
            torch.optim.SGD(engine._trained, lr=0.1).step()
    return found


def test_a_step_s_sample_and_noise_do_not_depend_on_when_they_are_drawn(monkeypatch):
    expected = released(3)
    monkeypatch.setattr(ahead, "works_beside", lambda device: True)
    found = released(3)
    assert all(
        torch.equal(a, b) for left, right in zip(found, expected, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_no_more_streams_are_taken_than_steps_were_charged_and_each_by_the_thread(beside):
    source = Recorded(4)
    released(3, source)
    assert len(source.taken) == 3
    assert all(name.startswith("noise") for name in source.taken)


def test_nothing_is_drawn_before_the_first_step_and_one_step_ahead_at_most(beside):
    examples, model, source = Examples(16), classifier(), Recorded(4)
    with engine_of(model, source=source, steps=9) as engine:
        assert source.taken == []
        engine.step(examples.loss(model))
        torch.optim.SGD(engine._trained, lr=0.1).step()
        assert len(source.taken) <= 2
    assert len(source.taken) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


def test_draws_of_a_step_that_failed_are_used_by_no_other(beside):
    examples, model = Examples(16), classifier()
    used: list[np.ndarray] = []
    real = Drawn.gaussian

    def failing(indices):
        raise KeyError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawn, "gaussian", lambda self, count: used.append(real(self, count)) or used[-1])
        for loss in (examples.loss(model), failing, examples.loss(model)):
            try:
                with engine_of(model, source=SecureSource(), steps=1, rate=1.0) as engine:
                    engine.step(loss)
                    torch.optim.SGD(engine._trained, lr=0.1).step()
            except KeyError:
                pass
    assert len(used) == 2
    assert not np.isin(used[0], used[1]).any()


def test_values_that_are_drawn_already_are_given_once_and_the_stream_goes_on():
    plain = Stream(KEY)
    first, second, last = plain.gaussian(4), plain.gaussian(4), plain.uniform(2)
    drawn = Drawn(Stream(KEY), 4)
    assert np.array_equal(drawn.gaussian(4), first)
    assert np.array_equal(drawn.gaussian(4), second)
    assert np.array_equal(drawn.uniform(2), last)


def test_values_for_another_count_are_never_given_in_part():
    drawn = Drawn(Stream(KEY), 4)
    first = Stream(KEY).gaussian(4)
    found = drawn.gaussian(2)
    assert len(found) == 2
    assert not np.isin(found, first).any()


def test_a_thread_that_fails_makes_the_step_fail(beside):
    class Broken(SeededSource):
        def fresh(self) -> Stream:
            raise OSError("no randomness")

    examples, model = Examples(4), classifier()
    with pytest.raises(OSError, match="no randomness"), engine_of(model, examples=4, source=Broken(0)) as engine:
        engine.step(examples.loss(model))
    assert all(p.grad is None for p in model.parameters())

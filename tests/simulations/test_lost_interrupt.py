"""An interrupt that comes while a finalizer runs: Python drops it, and nothing of that is printed."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from simulations.terminal.interruption import kill_is_ctrl_c


class Dying:
    """Is interrupted in its finalizer, where an exception has nobody to go to."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def lose_an_interrupt_and_ask() -> None:
    with kill_is_ctrl_c() as raise_if_asked:
        dying = Dying()
        del dying
        raise_if_asked()


def test_an_interrupt_that_a_finalizer_lost_is_raised_when_asked_and_not_printed(capsys):
    before = sys.unraisablehook
    lines = []
    sys.unraisablehook = lambda what: lines.append(what.exc_type)
    try:
        with pytest.raises(KeyboardInterrupt):
            lose_an_interrupt_and_ask()
        assert lines == []
        assert "Traceback" not in capsys.readouterr().err
    finally:
        sys.unraisablehook = before
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_what_else_a_finalizer_loses_is_still_said(monkeypatch):
    lines = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lines.append(what.exc_type))

    class Failing:
        def __del__(self) -> None:
            raise ValueError("shut the file twice")

    with kill_is_ctrl_c():
        failing = Failing()
        del failing
    assert lines == [ValueError]

"""Ctrl-C and `kill` on a simulation: it stops after its last complete round and prints how to continue."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fedlora.settings import RunError
from server.runs.submissions import completed_rounds

MOST = 2
"""Interrupts that raise."""


class InterruptedRunError(RunError):
    """The user stopped the run. The text says what was saved, and gives the command that continues."""

    status = 130  # a shell's number for what Ctrl-C has ended


@contextmanager
def kill_is_ctrl_c() -> Iterator[Callable[[], None]]:
    """SIGTERM raises KeyboardInterrupt as SIGINT does, in the main thread, until the end; what is given, once more.

    Where the interpreter is in a finalizer or a callback from C an exception is lost: so ask now and then. The second
    one raises too: what is being written then is left. Nothing does after it, or after the end of an interrupted body:
    the last words are on their way.
    """
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) <= MOST:
            raise KeyboardInterrupt

    def raise_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job's: it stays so
    numbers = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    lost = sys.unraisablehook
    sys.unraisablehook = lambda what: None if is_interrupt(what) else lost(what)
    try:
        yield raise_if_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, hear_no_more if asked else handler)
        if not asked:
            sys.unraisablehook = lost


def is_interrupt(what: sys.UnraisableHookArgs) -> bool:
    """Whether an interrupt was lost in a finalizer: its traceback would be all that a person sees of her Ctrl-C."""
    return what.exc_type is not None and issubclass(what.exc_type, KeyboardInterrupt)


def hear_no_more(number: int, frame: FrameType | None) -> None:
    """Replaces a handler that raises."""


def how_to_go_on(folder: Path, *, rounds: int) -> InterruptedRunError:
    """The message about a stopped run in `folder`, with the command that continues it."""
    given = ["fedlora", *sys.argv[1:]]
    if not any(folder.rglob("checkpoint.safetensors")):  # of mode `alone`, one below it for every client
        return InterruptedRunError(f"stopped before its first round; nothing was saved. Run again: {shlex.join(given)}")
    again = shlex.join(given if "--resume" in given else [*given, "--resume"])
    done = completed_rounds(folder)
    kept = f" Summary, picture and adapter of that round are in {folder}." if done else ""
    return InterruptedRunError(f"stopped after round {done} of {rounds}.{kept} To continue: {again}")


def the_same_again() -> InterruptedRunError:
    """The message of a stopped comparison."""
    again = shlex.join(["fedlora", *sys.argv[1:]])
    return InterruptedRunError(f"stopped. Finished runs are kept; the same command continues: {again}")

"""Between the thread that has the messages and the one that has the loop: one message, one answer, in turns."""

from __future__ import annotations

import queue
import threading
from typing import Any


class Turns:
    """A loop is there once it has asked for its first message."""

    def __init__(self) -> None:
        self._messages: queue.Queue[Any] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._one_at_a_time = threading.Lock()
        self._taken = threading.Event()

    @property
    def are_taken(self) -> bool:
        """Whether there is a loop that messages are for."""
        return self._taken.is_set()

    def next(self, timeout_s: float | None) -> Any:
        """The next message; None after `close`. TimeoutError after so many seconds."""
        self._taken.set()
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no round has begun within {timeout_s:g} s") from None

    def answer(self, content: Any) -> None:
        self._answers.put(content)

    def ask(self, message: Any) -> Any:
        """Hand the message to the loop, and wait for its answer."""
        with self._one_at_a_time:
            self._messages.put(message)
            return self._answers.get()

    def close(self) -> None:
        self._messages.put(None)

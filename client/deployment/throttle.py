"""A bandwidth cap for a site: its SuperNode connects here, and here is what it sends and receives held to a rate.

Flower has no such setting, and `tc` needs root. TLS passes through untouched, from the SuperNode to the coordinator;
the coordinator's certificate names 127.0.0.1 too (`server.trust.certificates`), so the SuperNode's check stays whole.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

log = logging.getLogger("fedlora.throttle")

CHUNK = 16 * 1024
CONNECT_S = 10.0
BYTES_PER_MEGABIT = 125_000


class Pace:
    """Lets so many bytes a second pass, in order of asking; shared by all connections of one direction.

    Guarantee: from the first byte on, no more than `rate * elapsed + one chunk` bytes are let through.
    """

    def __init__(
        self,
        bytes_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, size: int) -> None:
        """Until `size` more bytes may pass."""
        with self._lock:
            start = max(self._clock(), self._free_at)
            self._free_at = start + size / self._bytes_per_s
            pause = start - self._clock()
        if pause > 0:
            self._sleep(pause)


class Throttle:
    """Forwards connections on a free port of 127.0.0.1 to `target`, each direction at most at `megabits_s`."""

    def __init__(self, target: tuple[str, int], *, megabits_s: float) -> None:
        self._target = target
        self._up = Pace(megabits_s * BYTES_PER_MEGABIT)
        self._down = Pace(megabits_s * BYTES_PER_MEGABIT)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="throttle", daemon=True).start()

    @property
    def address(self) -> str:
        """host:port for the SuperNode."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # stopped
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target, CONNECT_S)
        except OSError as error:
            log.warning("the coordinator cannot be reached", extra={"why": error.strerror or str(error)})
            near.close()
            return
        far.settimeout(None)
        with near, far:
            up = threading.Thread(target=_forward, args=(near, far, self._up), daemon=True)
            up.start()
            _forward(far, near, self._down)
            up.join()


def _forward(source: socket.socket, sink: socket.socket, pace: Pace) -> None:
    """One direction, until its end; the other direction may go on."""
    try:
        while chunk := source.recv(CHUNK):
            pace.wait(len(chunk))
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # one side is gone, and so is the connection
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

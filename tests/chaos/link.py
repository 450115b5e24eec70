"""A bad network between a site and its coordinator: TCP forwarded at a given rate, which can be cut and healed."""

from __future__ import annotations

import selectors
import socket
import threading
import time

CHUNK = 4096
LULL_S = 1.0
"""What comes after so much silence belongs to another message."""


class Link:
    """Forwards connections to `target`; TLS passes through untouched. `stop` it."""

    def __init__(self, target: tuple[str, int], *, bytes_per_s: float) -> None:
        self._target = target
        self._pause_s = CHUNK / bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._up = True
        self._running = True
        self._burst = (0.0, 0)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def burst_up(self) -> int:
        """Bytes that the site is sending just now, since its last lull; 0 when it is silent."""
        last, size = self._burst
        return size if time.monotonic() - last < LULL_S else 0

    def cut(self) -> int:
        """Drop every connection, refuse new ones; how many there were."""
        self._up, count = False, len(self._pairs)
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._pairs.clear()
        return count

    def heal(self) -> None:
        self._up = True

    def stop(self) -> None:
        self._running = False
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while self._running:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, 5)
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(near, selectors.EVENT_READ, far)
                selector.register(far, selectors.EVENT_READ, near)
                while self._up and self._running:
                    for key, _ in selector.select(0.5):
                        received = key.fileobj.recv(CHUNK)  # type: ignore[union-attr]  # a socket, as registered
                        if not received:
                            return
                        key.data.sendall(received)
                        if key.fileobj is near:
                            self._burst = (time.monotonic(), self.burst_up + len(received))
                        time.sleep(self._pause_s * len(received) / CHUNK)
            except (OSError, ValueError):
                return
            finally:
                near.close()
                far.close()

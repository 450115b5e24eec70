"""A port that systemd has opened for the dashboard (`deploy/systemd/fedlora-dashboard.socket`): sd_listen_fds(3).

The service itself then needs no network: an attacker who controls it reaches only the store.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from fedlora.settings import SettingsError

FIRST = 3  # SD_LISTEN_FDS_START


def inherited_socket(environment: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening socket that was handed over; None where none was. SettingsError for more than one."""
    if environment.get("LISTEN_PID") != str(os.getpid()):  # meant for somebody else, or for nobody
        return None
    count = environment.get("LISTEN_FDS", "0")
    if count != "1":
        raise SettingsError(
            f"systemd passed {count} sockets; keep exactly one ListenStream= in fedlora-dashboard.socket."
        )
    return socket.socket(fileno=FIRST)


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port; SettingsError for what is no TCP port."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or listener.type != socket.SOCK_STREAM:
        raise SettingsError("systemd passed a socket that is not a TCP port; write ListenStream=127.0.0.1:8470.")
    host, port = listener.getsockname()[:2]
    return str(host), int(port)

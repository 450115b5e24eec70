"""Who listens on this machine, as the kernel says."""

from __future__ import annotations

from pathlib import Path

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same mapped into IPv6, and ::1, as /proc/net/tcp* writes them."""


def listeners(port: int) -> set[str]:
    """Local addresses, as /proc/net/tcp* writes them, on which somebody listens at `port`."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found

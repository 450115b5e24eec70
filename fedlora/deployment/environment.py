"""Settings files of long-running processes, and the environment that Flower's processes need."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from fedlora.settings import Settings, SettingsError, parse, read_mapping
from fedlora.units_path import units_folder

S = TypeVar("S", bound=Settings)

ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII)

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}


def load_settings(model: type[S], path: Path) -> S:
    """A YAML settings file; SettingsError says what is wrong with it."""
    return parse(model, read_mapping(path, str(path)))


def flower_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a process of Flower's: its own home, no telemetry, our commands on PATH, our packages importable.

    Two processes that share a FLWR_HOME race, so each has one of its own.
    """
    home.mkdir(parents=True, exist_ok=True)
    commands = str(Path(sys.executable).parent)
    path = os.pathsep.join(dict.fromkeys([commands, *os.environ.get("PATH", "").split(os.pathsep)]))
    units = str(units_folder())
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    python_path = os.pathsep.join(dict.fromkeys([units, *inherited]))
    return {**QUIET, "FLWR_HOME": str(home.resolve()), "PATH": path, "PYTHONPATH": python_path, **(extra or {})}


def command(name: str) -> str:
    """A console command of the environment that this Python belongs to."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise SettingsError(f"{name} is not in the folder of {sys.executable}; reinstall fedlora in this environment.")
    return str(path)


def split_address(address: str) -> tuple[str, int]:
    """host and port of `host:port`; an IPv6 address needs brackets, which are taken off.

    >>> split_address("coordinator.example:9092")
    ('coordinator.example', 9092)
    >>> split_address("[2001:db8::1]:9092")
    ('2001:db8::1', 9092)
    >>> split_address("2001:db8::1:9092")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fedlora.settings.SettingsError: address '2001:db8::1:9092' must be host:port, such as ...
    """
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536 or (found["six"] and not is_ipv6(found["six"])):
        raise SettingsError(
            f"address {address!r} must be host:port, such as coordinator.example:9092 or [2001:db8::1]:9092."
        )
    return found["six"] or found["host"], int(found["port"])


def is_ipv6(host: str) -> bool:
    """Whether `host` is an IPv6 address, which is written in brackets before a port."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def join_address(host: str, port: int) -> str:
    """What `split_address` takes apart.

    >>> join_address("::1", 9092)
    '[::1]:9092'
    """
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"

"""Description of this machine, as it is reported to a coordinator."""

from __future__ import annotations

import re

import torch

from fedlora.protocol.machine import Machine
from fedlora.protocol.software import versions

LONGEST = 60


def this_machine(device: str) -> Machine:
    """`device`: what the site trains on."""
    found = versions()
    told = {name: found[name] for name in ("fedlora", "python", "torch", "flwr")}
    return Machine(**told, device=device, accelerator=accelerator(device))


def accelerator(device: str) -> str | None:
    """The device's product name, in plain characters; None for a CPU."""
    if not device.startswith("cuda"):
        return None
    return plain(torch.cuda.get_device_name(device))


def plain(name: str) -> str | None:
    """A product's name without the characters that no coordinator accepts.

    >>> plain("Quadro® RTX <4000>")
    'Quadro RTX 4000'
    """
    words = " ".join(re.sub(r"[^A-Za-z0-9 ()._/+-]", " ", name).split())
    return words.lstrip("()._/+-")[:LONGEST].strip() or None

"""Deregisters a SuperNode that was killed, so that the coordinator accepts the next one at once.

Flower considers a node connected until its heartbeat has expired, 60 s, and until then refuses another SuperNode with
its key: that one exits with 305, again and again. A SuperNode that stops by itself deregisters its connection first;
this makes the same call for one that could not. It needs the node's id, which the site learns with its first message.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import grpc

from client.flower.fleet import call
from client.settings import ClientSettings
from fedlora.files import write_atomically

log = logging.getLogger("fedlora.deregister")

TIMEOUT_S = 5.0
NODE_FIELD = b"\x08"  # flwr.proto.DeactivateNodeRequest: field 1, a varint


def remember_node(settings: ClientSettings, node: int) -> None:
    """Record the node's id, with every message; writes only a new one. An error costs the deregistration, not the
    message."""
    path = settings.home("supernode") / "node-id"
    try:
        if not path.exists() or path.read_bytes() != str(node).encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, str(node).encode())
    except OSError as error:
        log.warning("the node's id cannot be written down", extra={"why": str(error)})


def deregister(settings: ClientSettings) -> None:
    """Deregister before a SuperNode is started. An error costs a minute's wait, as without this call, and nothing
    else."""
    path = settings.home("supernode") / "node-id"
    try:
        node = int(path.read_bytes())
    except (OSError, ValueError):  # none yet, or it is damaged: the next message brings it again
        return
    request = NODE_FIELD + varint(node)
    try:
        call(settings, "DeactivateNode", request, at=datetime.now(UTC), timeout_s=TIMEOUT_S)
    except grpc.RpcError as error:  # usually: that node is not connected any more
        log.info("nothing to deregister", extra={"said": error.details()})
        return
    log.warning("deregistered a SuperNode that could not do so itself")


def varint(number: int) -> bytes:
    """As Protocol Buffers write it.

    >>> varint(300).hex()
    'ac02'
    """
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])

"""A check whether the coordinator accepts this site's clock: Flower refuses calls from its future or past.

A SuperNode whose clock is more than 5 s ahead or 305 s behind is refused, and ends without saying why. This asks on
purpose: a call that is signed as the SuperNode's are, in the name of no node, so that it is refused in any case - and
how it is refused tells which check it came to. Nothing changes anywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc

from client.flower.fleet import call
from client.settings import ClientSettings
from fedlora.deployment.findings import Finding, bad, doubtful, good

CHECK = "clock here and there"
TIMEOUT_S = 10.0
WRONG_TIME, WRONG_NODE = "Invalid timestamp", "Invalid node ID"  # flwr 1.39, node_auth_server_interceptor.py


def against_coordinator(settings: ClientSettings, *, ahead: timedelta = timedelta()) -> Finding:
    """The finding; `ahead` is added to this clock."""
    said = refusal(settings, datetime.now(UTC) + ahead)
    if said == WRONG_NODE:
        return good(CHECK, f"{settings.coordinator} accepts this clock")
    if said == WRONG_TIME:
        remedy = "Synchronise both clocks with a time server: timedatectl set-ntp true"
        return bad(CHECK, "this clock is more than 5 s ahead of the coordinator's, or 305 s behind", remedy)
    return doubtful(CHECK, f"{settings.coordinator} could not be asked: {said}", "See the check of the coordinator.")


def refusal(settings: ClientSettings, now: datetime) -> str:
    """Why the coordinator refuses a call that is signed at `now`."""
    try:
        call(settings, "SendNodeHeartbeat", b"", at=now, timeout_s=TIMEOUT_S)
    except grpc.RpcError as error:
        return str(error.details())
    return "a call without a node was accepted"

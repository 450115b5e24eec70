"""The site's status at its coordinator: queried with a call that is signed like its SuperNode's and changes nothing.

The call would activate the site's node, if it did not name a heartbeat that no node may have; how it is refused tells
which check it came to.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum

import grpc

from client.flower.clock import WRONG_TIME
from client.flower.deregister import varint
from client.flower.fleet import call, signed
from client.settings import ClientSettings

KEY = "flwr-public-key-bin"
KEY_FIELD = b"\x0a"  # flwr.proto.ActivateNodeRequest: field 1, bytes; field 2, the heartbeat's interval, stays 0
NOT_APPROVED = "no approved key is shown"
"""Error text of a coordinator's own check, where it has one before Flower's."""


NOT_VERIFIED = "CERTIFICATE_VERIFY_FAILED"
"""Part of gRPC's error text after a failed handshake."""


class Standing(Enum):
    """Status of this site at the coordinator."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """Its key is not approved."""
    WRONG_TIME = "wrong time"
    OTHER_AUTHORITY = "other authority"
    """The coordinator presents a certificate that this site's authority did not sign."""
    AWAY = "away"
    """The coordinator could not be reached."""
    UNSURE = "unsure"
    """Not asked yet, or an unexpected answer."""


def standing(settings: ClientSettings) -> Standing:
    """Ask; takes at most `patience.answer_s`."""
    key = dict(signed(settings.node_key, ""))[KEY]
    assert isinstance(key, bytes)
    request = KEY_FIELD + varint(len(key)) + key
    try:
        call(settings, "ActivateNode", request, at=datetime.now(UTC), timeout_s=settings.patience.answer_s)
    except grpc.RpcError as error:
        return meaning(error.code(), str(error.details()))
    return Standing.UNSURE


def meaning(code: grpc.StatusCode, said: str) -> Standing:
    """The status behind an error of flwr 1.39 (message_handler.py, error/catalog.py) or of the coordinator's own
    check."""
    if code is grpc.StatusCode.INVALID_ARGUMENT:  # it came to the interval, past the key
        return Standing.ACCEPTED
    if code is grpc.StatusCode.FAILED_PRECONDITION or said == NOT_APPROVED:
        return Standing.UNKNOWN
    if said == WRONG_TIME:
        return Standing.WRONG_TIME
    if code is grpc.StatusCode.UNAVAILABLE and NOT_VERIFIED in said:
        return Standing.OTHER_AUTHORITY
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Standing.AWAY
    return Standing.UNSURE

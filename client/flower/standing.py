"""How a site stands with its coordinator: asked with a call that is signed as its SuperNode's are, and changes nothing.

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
"""What a coordinator's own check says, where it has one before Flower's."""


NOT_VERIFIED = "CERTIFICATE_VERIFY_FAILED"
"""In what gRPC says of a handshake."""


class Standing(Enum):
    """What a coordinator says of this site."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """Its key is not one of those that may come in."""
    WRONG_TIME = "wrong time"
    OTHER_AUTHORITY = "other authority"
    """It shows a certificate that this site's authority has not signed."""
    AWAY = "away"
    """It could not be asked."""
    UNSURE = "unsure"
    """It has not been asked, or has answered with something else."""


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
    """Of a refusal, by flwr 1.39 (message_handler.py, error/catalog.py) or by the coordinator's own check."""
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

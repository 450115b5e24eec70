"""Whether the coordinator takes this site's clock for right: Flower refuses calls from its future or past.

A SuperNode whose clock is more than 5 s ahead or 305 s behind is refused, and ends without saying why. This asks on
purpose: a call that is signed as the SuperNode's are, in the name of no node, so that it is refused in any case - and
how it is refused tells which check it came to. Nothing changes anywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.settings import ClientSettings
from fedlora.findings import Finding, bad, doubtful, good
from fedlora.private_files import require_private

CHECK = "clock here and there"
METHOD = "/flwr.proto.Fleet/SendNodeHeartbeat"
TIMEOUT_S = 10.0
WRONG_TIME, WRONG_NODE = "Invalid timestamp", "Invalid node ID"  # flwr 1.39, node_auth_server_interceptor.py


def against_coordinator(settings: ClientSettings, *, ahead: timedelta = timedelta()) -> Finding:
    """The finding; `ahead` is added to this clock."""
    said = refusal(settings, datetime.now(UTC) + ahead)
    if said == WRONG_NODE:
        return good(CHECK, f"{settings.coordinator} takes this clock for right")
    if said == WRONG_TIME:
        remedy = "Have both clocks set by a time server: timedatectl set-ntp true"
        return bad(CHECK, "this clock is more than 5 s ahead of the coordinator's, or 305 s behind", remedy)
    return doubtful(CHECK, f"{settings.coordinator} could not be asked: {said}", "See what is said of the coordinator.")


def refusal(settings: ClientSettings, now: datetime) -> str:
    """Why the coordinator refuses a call that is signed at `now`."""
    channel = grpc.secure_channel(
        settings.coordinator, grpc.ssl_channel_credentials(settings.ca_certificate.read_bytes())
    )
    with channel:
        call = channel.unary_unary(METHOD)
        try:
            call(b"", metadata=signed(settings.node_key, now.isoformat()), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.details())
    return "a call without a node was accepted"


def signed(node_key: Path, timestamp: str) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata by which a SuperNode proves which key is its own."""
    key = serialization.load_ssh_private_key(require_private(node_key).read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{node_key} is a {type(key).__name__}; a node's key is ECDSA")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return (
        ("flwr-public-key-bin", public),
        ("flwr-timestamp", timestamp),
        ("flwr-signature-bin", signature),
    )

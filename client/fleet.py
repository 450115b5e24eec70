"""Calls of the coordinator's Fleet API that are signed with this site's key, as its SuperNode signs its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.settings import ClientSettings
from fedlora.private_files import require_private

SERVICE = "/flwr.proto.Fleet"


def call(settings: ClientSettings, method: str, request: bytes, *, at: datetime, timeout_s: float) -> None:
    """Make the call; grpc.RpcError where the coordinator refuses it or cannot be reached."""
    credentials = grpc.ssl_channel_credentials(settings.ca_certificate.read_bytes())
    with grpc.secure_channel(settings.coordinator, credentials) as channel:
        channel.unary_unary(f"{SERVICE}/{method}")(
            request, metadata=signed(settings.node_key, at.isoformat()), timeout=timeout_s
        )


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

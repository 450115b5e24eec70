"""Calls of the coordinator's Fleet API that are signed with this site's key, as its SuperNode signs its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.flower.identity import channel_credentials, load_node_key
from client.settings import ClientSettings

SERVICE = "/flwr.proto.Fleet"


def call(settings: ClientSettings, method: str, request: bytes, *, at: datetime, timeout_s: float) -> None:
    """Make the call; grpc.RpcError where the coordinator refuses it or cannot be reached."""
    credentials = channel_credentials(settings.ca_certificate.read_bytes(), settings.node_key, settings.certificate)
    with grpc.secure_channel(settings.coordinator, credentials) as channel:
        channel.unary_unary(f"{SERVICE}/{method}")(
            request, metadata=signed(settings.node_key, at.isoformat()), timeout=timeout_s
        )


def signed(node_key: Path, timestamp: str) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata by which a SuperNode proves which key is its own."""
    key = load_node_key(node_key)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return (
        ("flwr-public-key-bin", public),
        ("flwr-timestamp", timestamp),
        ("flwr-signature-bin", signature),
    )

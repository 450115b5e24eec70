"""The access check in front of Flower's own: who may call the Fleet API, and as which site.

    stranger          no certificate of the authority             the connection ends in the TLS handshake
    any connection    a key that is not approved now               refused before Flower reads a byte of it
    an approved site  another site's key, certificate or name      refused

Flower 1.39 verifies that a caller holds the key it shows, but lets it activate the node of any other key; and what it
parses of a stranger's metadata can raise. Here nothing of the caller's is parsed but the time: keys are compared with
those in the registry byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SERVICE = "/flwr.proto.Fleet/"
ACTIVATE = f"{SERVICE}ActivateNode"
METHODS = frozenset(
    f"{SERVICE}{name}"
    for name in (
        "ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun", "GetFab",
        "PushObject", "PullObject", "ConfirmMessageReceived",
    )
)  # fmt: skip
"""What a SuperNode of flwr 1.39 calls; nothing else is offered."""

NOT_APPROVED = "no approved key is shown"
KEY, TIME, SIGNATURE = "flwr-public-key-bin", "flwr-timestamp", "flwr-signature-bin"
Metadata = Sequence[tuple[str, str | bytes]]
Approved = Callable[[], Mapping[bytes, str]]
"""The sites that may come in now, by the PEM text of their public keys."""


class Door(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets approved sites through, each in its own name.

    Guarantee: a handler of Flower's is entered only for a call whose key is approved at that moment, and, with
    `certificates`, over a connection whose client certificate is for that key; ActivateNode only for that key's node.
    """

    def __init__(
        self, approved: Approved, *, certificates: bool, seen: Callable[[str], None] = lambda site: None
    ) -> None:
        self._approved = approved
        self._certificates = certificates
        self._seen = seen

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Refuse at once what can be refused without the request."""
        if details.method not in METHODS:
            return refusal(grpc.StatusCode.UNIMPLEMENTED, "this method is not available here")
        key = shown_key(details.invocation_metadata)
        site = None if key is None else self._approved().get(key)
        if key is None or site is None:
            return refusal(grpc.StatusCode.UNAUTHENTICATED, NOT_APPROVED)
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return refusal(grpc.StatusCode.UNIMPLEMENTED, "this method is not available here")

        if handler.request_deserializer is None:  # a refusal of Flower's: its signature or time is wrong
            return handler

        def guarded(request: Any, context: Any) -> Any:
            if self._certificates and certified_key(context) != key:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate does not belong to the presented key")
            if details.method == ACTIVATE and request.public_key != key:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "a site may activate only its own node")
            self._seen(site)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def shown_key(metadata: Metadata | None) -> bytes | None:
    """The key that the caller says is its own, where all that Flower is going to read has the form that it expects."""
    found: dict[str, list[str | bytes]] = {}
    for name, value in metadata or ():
        found.setdefault(name, []).append(value)
    key, time, signature = (found.get(name, []) for name in (KEY, TIME, SIGNATURE))
    if len(key) != 1 or len(time) != 1 or len(signature) != 1:
        return None
    if not (isinstance(key[0], bytes) and isinstance(time[0], str) and isinstance(signature[0], bytes)):
        return None
    return key[0] if is_moment(time[0]) else None


def is_moment(text: str) -> bool:
    """Whether it is a time with its zone, in ASCII, as Flower writes it.

    >>> is_moment("2026-05-04T10:11:12.5+00:00"), is_moment("2026-05-04T10:11:12"), is_moment("yesterday")
    (True, False, False)
    """
    try:
        return text.isascii() and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def certified_key(context: Any) -> bytes | None:
    """The public key of the connection's client certificate, which TLS has verified; None without one."""
    shown = context.auth_context().get("x509_pem_cert")
    if not shown:
        return None
    key = x509.load_pem_x509_certificate(shown[0]).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def refusal(code: grpc.StatusCode, why: str) -> Any:
    """A method that only refuses."""

    def refuse(request: Any, context: Any) -> Any:
        context.abort(code, why)

    return grpc.unary_unary_rpc_method_handler(refuse)

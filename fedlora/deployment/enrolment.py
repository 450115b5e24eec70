"""Enrolment: a site sends a signed request to a coordinator, which sends a grant back.

    site                                        coordinator
    makes its own key (it never leaves)
    request.json: name, public key, signature ──►  approve: the key is registered for this name
    ca.crt, site.crt, client.yaml             ◄──  grant.json: CA certificate, address, name of the coordinator, and a
                                                   certificate for the key, with which the site reaches the port

Neither file is secret. Both can be changed on the way by whoever carries them, so both sides print a fingerprint, and
the two administrators compare it by telephone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate, load_pem_x509_certificates

from fedlora.settings import Settings, SettingsError, parse

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
HEXADECIMAL = re.compile(r"[0-9a-f]+")
LARGEST_FILE_BYTES = 65_536


class Request(Settings):
    """A site asks to take part; the signature shows that it holds the private key."""

    site: str
    public_key: str
    """ECDSA P-384, in OpenSSH's one-line format."""
    signature: str
    """Base64, over site and public key."""


class Grant(Settings):
    """A coordinator accepts a site."""

    site: str
    coordinator: str
    """The coordinator's name, as the site's policy knows it."""
    address: str
    """host:port of the Fleet API."""
    ca_certificate: str
    """PEM; the only certificate authority that the site trusts for this coordinator: two while it is being replaced."""
    key: str
    """Fingerprint of the site's key that was approved."""
    certificate: str | None = None
    """PEM; proves at the coordinator's port that this key is approved. Coordinators of version 0.1.0 gave none."""


def require_name(text: str, *, what: str = "name") -> str:
    """`text` if it can be a site's or a run's name: it becomes a folder name, so nothing that a path could abuse.

    >>> require_name("hospital-a")
    'hospital-a'
    >>> require_name("../etc", what="site")
    Traceback (most recent call last):
    fedlora.settings.SettingsError: site '../etc' must be 1 to 63 small letters, digits or hyphens, such as hospital-a.
    """
    if not NAME.fullmatch(text):
        raise SettingsError(f"{what} {text!r} must be 1 to 63 small letters, digits or hyphens, such as hospital-a.")
    return text


def new_node_key() -> bytes:
    """A private key as Flower's SuperNode reads it: ECDSA P-384, OpenSSH format, unencrypted."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def make_request(site: str, private_key: bytes) -> Request:
    """The request of `site`, signed."""
    key = serialization.load_ssh_private_key(private_key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(f"the node key is of type {type(key).__name__}; it must be ECDSA P-384.")
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    signature = key.sign(_signed(require_name(site, what="site"), public), ec.ECDSA(hashes.SHA384()))
    return Request(site=site, public_key=public, signature=base64.b64encode(signature).decode())


def require_valid(request: Request) -> Request:
    """`request` if its name is one and its signature is the key's own; SettingsError otherwise."""
    require_name(request.site, what="site")
    try:
        key = serialization.load_ssh_public_key(request.public_key.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise SettingsError(f"the key of {request.site} must be ECDSA P-384; make it with: fedlora client enroll")
        signature = base64.b64decode(request.signature, validate=True)
        key.verify(signature, _signed(request.site, request.public_key), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"the request of {request.site} is not signed with its own key; ask the site to make it again: "
            "fedlora client enroll"
        ) from None
    return request


def fingerprint(public_key: str) -> str:
    """As ssh-keygen -l prints it: SHA256:..., to be compared by telephone."""
    blob = base64.b64decode(public_key.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def certificate_fingerprint(certificate: Certificate) -> str:
    """SHA-256 of the certificate, in groups of four."""
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


def authorities_in(pem: str) -> list[Certificate]:
    """The certificates in a text. SettingsError if there is none."""
    try:
        return load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise SettingsError(
            "the grant does not contain a valid authority certificate; ask for the grant again."
        ) from None


def same_fingerprint(given: str, found: str) -> bool:
    """Whether a person or script means this one, however it was written down.

    >>> same_fingerprint("SHA256:AB:CD:01", "abcd 01")
    True
    >>> same_fingerprint("sha256:abcd", "SHA256:abcd"), same_fingerprint("SHA256:aBcd+/9", "SHA256:abcd+/9")
    (True, False)
    """
    given, found = (re.sub(r"(?i)^sha256:|[\s=]", "", text.strip()) for text in (given, found))
    if HEXADECIMAL.fullmatch(found):
        return given.replace(":", "").lower() == found
    return given == found


def read_request(path: Path) -> Request:
    """A request from a file, its form and signature checked."""
    return require_valid(parse(Request, _read_json(path), prefix="request"))


def read_grant(path: Path) -> Grant:
    """A grant from a file."""
    return parse(Grant, _read_json(path), prefix="grant")


def _read_json(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise SettingsError(f"{path} has {path.stat().st_size} bytes, more than the limit of {LARGEST_FILE_BYTES}.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path} is not JSON; use the file exactly as the other side sent it.") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must contain one JSON object.")
    return values


def _signed(site: str, public_key: str) -> bytes:
    return b"fedlora enrolment v1\n" + json.dumps([site, public_key]).encode()

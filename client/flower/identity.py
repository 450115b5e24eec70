"""The site's identity: its node key, and the certificate for that key that came with the coordinator's grant."""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedlora.deployment.private_files import require_private
from fedlora.settings import SettingsError


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The site's private key. SettingsError if others can read it, or it is none."""
    try:
        key = serialization.load_ssh_private_key(require_private(path).read_bytes(), password=None)
    except ValueError:
        raise SettingsError(f"{path} is not a key made by fedlora client enroll; restore it.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(
            f"{path} is a {type(key).__name__}; a node's key must be ECDSA; create it with: fedlora client enroll"
        )
    return key


def certificate_for(key: ec.EllipticCurvePublicKey, path: Path) -> x509.Certificate | None:
    """The certificate in `path` that is for this key; there may be one for a following key beside it."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot read {path} ({type(error).__name__}); install the grant again with: fedlora client accept"
        ) from None
    return next((certificate for certificate in found if certificate.public_key() == key), None)


def channel_credentials(authority: bytes, node_key: Path, certificate: Path) -> grpc.ChannelCredentials:
    """Certificate and key for a connection to the coordinator. A grant of version 0.1.0 contained no certificate: then
    none is presented, and a coordinator that requires one refuses the connection."""
    key = load_node_key(node_key)
    own = certificate_for(key.public_key(), certificate)
    if own is None:
        return grpc.ssl_channel_credentials(authority)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_channel_credentials(authority, private, own.public_bytes(serialization.Encoding.PEM))

"""The site's key: signs the ledger's anchor and the receipts that travel. Ed25519, or the site's ECDSA key."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedlora.deployment.private_files import require_private

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
_ECDSA = ECDSA(hashes.SHA384())


class SignatureError(ValueError):
    """The text is not what the key's holder signed, or the key is of a kind that does not sign here."""


def load_key(path: Path) -> PrivateKey:
    """Read an unencrypted PEM key; Ed25519 or any elliptic curve of `cryptography`."""
    data = path.read_bytes()
    load = serialization.load_ssh_private_key if b"OPENSSH" in data[:64] else serialization.load_pem_private_key
    key = load(data, password=None)
    if not isinstance(key, (Ed25519PrivateKey, EllipticCurvePrivateKey)):
        raise SignatureError(
            f"{path} contains a {type(key).__name__}; receipts need an Ed25519 or an elliptic-curve key."
        )
    return key


def load_or_create_key(path: Path) -> PrivateKey:
    """The key at `path`, which only this user may read; a new Ed25519 key if there is none.

    SettingsError where others can read it: whoever has it can rewrite a ledger unnoticed.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # the first of two processes wins, and both then read the same key
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return load_key(require_private(path))


def public_text(key: PrivateKey) -> str:
    """The public half as PEM."""
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def sign(key: PrivateKey, content: bytes) -> str:
    """The signature, as hexadecimal text."""
    signature = key.sign(content) if isinstance(key, Ed25519PrivateKey) else key.sign(content, _ECDSA)
    return signature.hex()


def require_signed(public_key: str, content: bytes, signature: str) -> None:
    """SignatureError unless the holder of the key (PEM or OpenSSH text) signed exactly `content`."""
    pem = public_key.lstrip().startswith("-----")
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    try:
        public = load(public_key.encode())
        if isinstance(public, Ed25519PublicKey):
            public.verify(bytes.fromhex(signature), content)
        elif isinstance(public, EllipticCurvePublicKey):
            public.verify(bytes.fromhex(signature), content, _ECDSA)
        else:
            raise SignatureError(f"a {type(public).__name__} is neither Ed25519 nor elliptic-curve.")
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature does not belong to this text and key.") from error

"""Replacing the certificate authority while sites go on, in two steps with a time between them in which both hold.

    roll-authority           next.key is made, ca.crt holds both; grants from now on bring both, and a certificate
                             that the new one signed; the server still shows one that the old authority signed
    every site takes a grant
    roll-authority --finish  next.key becomes ca.key, the server shows a certificate of the new one, the old one goes

Each step can be killed anywhere and done again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedlora.deployment.private_files import require_private, write_private
from fedlora.files import sync_folder, write_atomically
from fedlora.settings import SettingsError
from server.trust.certificates import (
    CA_DAYS,
    PEM,
    Signer,
    authorities,
    issue_server_certificate,
    private_pem,
    self_signed,
    signer_in,
)

NEXT = "next.key"


def newest_signer(folder: Path) -> Signer:
    """Who signs what sites are granted: the authority that will last longest."""
    return signer_in(folder, NEXT if is_rolling(folder) else "ca.key")


def is_rolling(folder: Path) -> bool:
    """Whether a new authority is there that has not yet taken the old one's place."""
    return (folder / NEXT).exists() and len(authorities(folder)) > 1


def begin_roll(folder: Path, *, coordinator: str, days: int = CA_DAYS) -> Signer:
    """The new authority, trusted beside the old one from now on. SettingsError if that was done already."""
    if is_rolling(folder):
        raise SettingsError(
            "a new authority already exists. When every site has installed a new grant: fedlora admin roll-authority "
            "--finish"
        )
    old = authorities(folder)[-1:]
    if (folder / NEXT).exists():  # killed between its key and its certificate
        key = serialization.load_pem_private_key(require_private(folder / NEXT).read_bytes(), password=None)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(folder / NEXT, private_pem(key))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(
            f"{folder / NEXT} is a {type(key).__name__}; the authority's key must be ECDSA; remove this file."
        )
    new = self_signed(key, coordinator=coordinator, days=days)
    write_atomically(folder / "ca.crt", b"".join(certificate.public_bytes(PEM) for certificate in (*old, new)))
    return newest_signer(folder)


def finish_roll(folder: Path, *, hosts: Iterable[str]) -> None:
    """The new authority alone. Sites that have not taken a grant since `begin_roll` no longer find it."""
    if (folder / NEXT).exists():
        signer_in(folder, NEXT)  # it is whole
        (folder / NEXT).replace(folder / "ca.key")
        sync_folder(folder)
    elif len(authorities(folder)) < 2:
        raise SettingsError("there is no new authority; create it first: fedlora admin roll-authority")
    issue_server_certificate(folder, hosts=hosts)
    write_atomically(folder / "ca.crt", signer_in(folder).certificate.public_bytes(PEM))

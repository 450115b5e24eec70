"""The coordinator's certificate authority, and what it signs: the server's certificate and one for every site.

    pki/ca.key      0600  signs; may be kept elsewhere between uses
    pki/ca.crt            the authority's certificate; two while it is being replaced (`server.trust.authority`)
    pki/server.pem  0600  the server's key and certificate in one file, so that they are renewed together or not at all

All keys are ECDSA, made by `cryptography`. No certificate ends after the authority that signed it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlora.deployment.private_files import require_private, write_private
from fedlora.files import write_atomically
from fedlora.settings import SettingsError

CA_DAYS, SERVER_DAYS = 3650, 397
CLOCK_SLACK = timedelta(minutes=10)  # a site whose clock is behind by less still accepts a new certificate
PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Signer:
    """An authority at work: its certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(folder: Path, *, coordinator: str, days: int = CA_DAYS) -> None:
    """ca.key (0600) and ca.crt; the authority signs nothing but this coordinator's and its sites' certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, coordinator=coordinator, days=days)
    write_private(folder / "ca.key", private_pem(key))
    write_atomically(folder / "ca.crt", certificate.public_bytes(PEM))


def self_signed(key: ec.EllipticCurvePrivateKey, *, coordinator: str, days: int) -> x509.Certificate:
    """An authority's own certificate."""
    name = _name(f"fedlora {coordinator[:32]} authority {secrets.token_hex(4)}")  # two of them are told apart by it
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    end = datetime.now(UTC) + timedelta(days=days)
    return (
        _unsigned(name, name, key.public_key(), by=key, end=end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def authorities(folder: Path) -> list[x509.Certificate]:
    """Who is trusted: one authority; two, the newer one last, while one is being replaced."""
    try:
        return x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot read {folder / 'ca.crt'} ({type(error).__name__}): restore pki/ from a backup."
        ) from None


def signer_in(folder: Path, key_file: str = "ca.key") -> Signer:
    """The authority whose key is in `key_file`. SettingsError if it is missing, unreadable or in no certificate."""
    path = folder / key_file
    try:
        key = serialization.load_pem_private_key(require_private(path).read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{path} is not a private key ({type(error).__name__}): restore it from a backup."
        ) from None
    for certificate in authorities(folder):
        if isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key():
            return Signer(certificate, key)
    raise SettingsError(f"{path} is not the key of a certificate in {folder / 'ca.crt'}: restore pki/ from a backup.")


def issue_server_certificate(folder: Path, *, hosts: Iterable[str], days: float = SERVER_DAYS) -> None:
    """server.pem (0600) for these names and addresses, signed by the folder's authority, for no longer than it lasts.

    The file is the old one or the new one, whatever happens; SettingsError or OSError leaves the old one.
    """
    signer = signer_in(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"])]
    certificate = (
        _signed_by(signer, _name("fedlora coordinator"), key.public_key(), days=days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    write_private(folder / "server.pem", private_pem(key) + certificate.public_bytes(PEM))
    for name in ("server.key", "server.crt"):  # what version 0.1.0 wrote; nothing reads them any more
        (folder / name).unlink(missing_ok=True)


def site_certificate(signer: Signer, *, site: str, public_key: str) -> str:
    """PEM: the holder of the site's key may reach the Fleet port. It lasts as long as its authority: whether a site
    still takes part is the registry's to say, at once, and not a date's."""
    key = serialization.load_ssh_public_key(public_key.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SettingsError(f"the key of {site} is a {type(key).__name__}; it must be ECDSA P-384.")
    certificate = (
        _signed_by(signer, _name("fedlora site"), key, days=CA_DAYS)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"fedlora:{site}")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    return certificate.public_bytes(PEM).decode()


def server_certificate(folder: Path) -> x509.Certificate:
    """The one that sites are shown. SettingsError if it cannot be read."""
    try:
        return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"cannot read {folder / 'server.pem'} ({type(error).__name__}); create a new one with: fedlora admin renew"
        ) from None


def join_old_pair(folder: Path) -> None:
    """server.pem out of server.key and server.crt, as version 0.1.0 wrote them, where it is not there yet."""
    key, certificate = folder / "server.key", folder / "server.crt"
    if not (folder / "server.pem").exists() and key.exists() and certificate.exists():
        write_private(folder / "server.pem", require_private(key).read_bytes() + certificate.read_bytes())


def days_left(folder: Path) -> float:
    """Until the server certificate expires; negative afterwards."""
    return days_to(server_certificate(folder).not_valid_after_utc)


def authority_days_left(folder: Path) -> float:
    """Until the newest authority ends, and with it every certificate that it signed."""
    return days_to(authorities(folder)[-1].not_valid_after_utc)


def stamp(folder: Path) -> str | None:
    """Changes when the server certificate or the authorities do: the SuperLink must then be started afresh. None where
    one cannot be read: a SuperLink that runs is better off without it than one that is started."""
    try:
        return hashlib.sha256(b"".join((folder / name).read_bytes() for name in ("server.pem", "ca.crt"))).hexdigest()
    except OSError:
        return None


def days_to(end: datetime) -> float:
    """Negative afterwards."""
    return (end - datetime.now(UTC)) / timedelta(days=1)


def _end(signer: Signer, days: float) -> datetime:
    last = signer.certificate.not_valid_after_utc
    if last <= datetime.now(UTC):
        raise SettingsError(
            f"the authority expired on {last:%Y-%m-%d}; create a new one with: fedlora admin roll-authority"
        )
    return min(datetime.now(UTC) + timedelta(days=days), last)


def _signed_by(
    signer: Signer, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: float
) -> x509.CertificateBuilder:
    issuer = signer.certificate.subject
    return _unsigned(subject, issuer, key, by=signer.key, end=_end(signer, days))


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    by: ec.EllipticCurvePrivateKey,
    end: datetime,
) -> x509.CertificateBuilder:
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), end) - CLOCK_SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(issuer_key, critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Unencrypted PKCS 8: for a file of mode 0600."""
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

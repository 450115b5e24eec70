"""Checks that both sides' doctors make. Each returns a Finding; none changes anything."""

from __future__ import annotations

import ctypes
import ipaddress
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from fedlora import __version__
from fedlora.config import ModelSettings
from fedlora.deployment.findings import Finding, bad, doubtful, good
from fedlora.deployment.private_files import require_private
from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from fedlora.models.base import Base  # with torch, which a coordinator's doctor needs not

FLOWER = "1.39"
PYTHON = (3, 11)
WARN_DAYS = 30
LEAST_FREE_GIB, COMFORTABLE_FREE_GIB = 1.0, 5.0
TIME_ERROR, TIMEX_BYTES = 5, 512  # adjtimex(2); struct timex has 208 bytes on 64-bit Linux


def versions() -> Finding:
    """Flower must be the same major.minor on both sides, and the executor stands on private parts of this one."""
    try:
        found = {name: version(name) for name in ("flwr", "torch", "transformers", "peft", "cryptography")}
    except PackageNotFoundError as error:
        return bad("versions", f"{error.name} is not installed", "pip install fedlora")
    said = ", ".join(f"{name} {number}" for name, number in {"fedlora": __version__, **found}.items())
    if sys.version_info < PYTHON:
        return bad("versions", f"Python {sys.version.split()[0]}", "Install Python 3.11 or later.")
    if not found["flwr"].startswith(f"{FLOWER}."):
        return bad("versions", said, f"pip install 'flwr>={FLOWER},<1.40': both sides need the same minor version.")
    return good("versions", said)


def commands(*names: str) -> Finding:
    """Flower's commands must be beside this Python."""
    folder = Path(sys.executable).parent
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        return bad("commands", f"{', '.join(missing)} not in {folder}", "Reinstall flwr in this environment.")
    return good("commands", f"{', '.join(names)} in {folder}")


def private(check: str, path: Path) -> Finding:
    """A key that only its owner can read."""
    try:
        require_private(path)
    except SettingsError as error:
        missing = not path.exists()
        return bad(check, str(error), "Create or restore it." if missing else f"chmod 600 {path}")
    return good(check, f"{path} is readable only by its owner")


def certificate(check: str, path: Path, *, remedy: str, host: str | None = None, warn_days: int = WARN_DAYS) -> Finding:
    """Readable, valid now and for a while, and for this host. Of several (an authority and its successor) the last."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())[-1]
    except OSError as error:
        return bad(check, f"{path} cannot be read: {error.strerror}", remedy)
    except ValueError:
        return bad(check, f"{path} is not a certificate", remedy)
    if host is not None and plain_host(host) not in names(found):
        return bad(check, f"{path} is for {', '.join(names(found))}, not for {host}", remedy)
    return valid_now(check, found, remedy=remedy, warn_days=warn_days)


def valid_now(check: str, found: x509.Certificate, *, remedy: str, warn_days: int) -> Finding:
    """By this clock, and for a while."""
    now = datetime.now(UTC)
    if now < found.not_valid_before_utc:
        return bad(
            check, f"valid only from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", "Correct this machine's clock."
        )
    days = (found.not_valid_after_utc - now).days
    if now > found.not_valid_after_utc:
        return bad(check, f"expired on {found.not_valid_after_utc:%Y-%m-%d}", remedy)
    if days < warn_days:
        return doubtful(check, f"expires in {days} days", remedy)
    return good(check, f"valid for another {days} days")


def names(found: x509.Certificate) -> list[str]:
    """DNS names and addresses that a certificate is for."""
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
    return [*alternative.get_values_for_type(x509.DNSName), *addresses]


def plain_host(host: str) -> str:
    """An address in its shortest form, in which `names` has it; a name as it is.

    >>> plain_host("0:0::1"), plain_host("fed.example.org")
    ('::1', 'fed.example.org')
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def disk(path: Path) -> Finding:
    """Room for checkpoints, ledger and logs."""
    free_gib = shutil.disk_usage(path).free / 2**30
    said = f"{free_gib:.1f} GiB free at {path}"
    if free_gib < LEAST_FREE_GIB:
        return bad("disk", said, f"Free disk space: at least {LEAST_FREE_GIB:.0f} GiB are needed.")
    if free_gib < COMFORTABLE_FREE_GIB:
        return doubtful("disk", said, f"{COMFORTABLE_FREE_GIB:.0f} GiB are recommended.")
    return good("disk", said)


def device(name: str) -> Finding:
    """The device that this machine is to compute on."""
    from fedlora.models.base import usable_device  # with torch, which a coordinator's doctor needs not

    try:
        usable_device(name)
    except SettingsError as error:
        return bad("device", str(error), "Set device to one that is there, or install the driver.")
    return good("device", f"{name} works")


def base_model(wanted: ModelSettings) -> Finding:
    """The base model is here and whole; its fingerprint is what the other side must have too."""
    base = base_here(wanted)
    return base if isinstance(base, Finding) else good("base model", said_of_base(wanted, base))


def base_here(wanted: ModelSettings) -> Base | Finding:
    """The base as its task loads it and as `load_dtype` holds it, or why it cannot be loaded."""
    from fedlora.models.base import load_base

    try:
        return load_base(wanted.model_copy(update={"max_tokens": 8, "device": "cpu"}), ("a", "b"))  # no text is read
    except SettingsError as error:
        return bad("base model", str(error), "Put the folder there, or fetch it once: hf download ID")


def said_of_base(wanted: ModelSettings, base: Base) -> str:
    """Its fingerprint, how it is held, and what two people compare where their fingerprints differ."""
    parts = ", ".join(f"{name} {digest}" for name, digest in base.parts.items())
    return (
        f"{wanted.id}: fingerprint {base.fingerprint}, held in {wanted.load_dtype} ({parts}; the rest is its weights)"
    )


def clock() -> Finding:
    """Whether the kernel takes this clock to be synchronised; certificates and deadlines need it."""
    if sys.platform != "linux":
        return doubtful("clock", "cannot be checked on this system", "Check that a time server sets this clock.")
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # all zero: ask, change nothing
    if state == TIME_ERROR:
        return doubtful("clock", "not synchronised with a time server", "timedatectl set-ntp true")
    if state < 0:
        return doubtful("clock", "the kernel does not report it", "Check that NTP runs: timedatectl")
    return good("clock", "synchronised")

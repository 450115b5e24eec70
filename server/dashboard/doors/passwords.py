"""Password hashes (scrypt), and hashes of random secrets (SHA-256).

Guarantee: what is stored does not let anybody log in; checking takes as long for a name that does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode

from fedlora.settings import SettingsError

N, R, P = 2**15, 8, 3  # OWASP's password storage cheat sheet, 2024: 32 MiB a check
SHORTEST = 12
LONGEST = 256


def hash_password(password: str) -> str:
    """`scrypt$N$r$p$salt$hash`; SettingsError for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise SettingsError(f"a password must have {SHORTEST} to {LONGEST} characters; this one has {len(password)}.")
    salt = secrets.token_bytes(16)
    return "$".join(["scrypt", str(N), str(R), str(P), _text(salt), _text(_scrypt(password, salt, N, R, P))])


def password_matches(password: str, stored: str | None) -> bool:
    """Whether `password` is the stored one. None (there is no such user) costs the same time and is False."""
    n, r, p, salt, expected = _parts(stored or DECOY)
    same = hmac.compare_digest(_scrypt(password[:LONGEST], salt, n, r, p), expected)
    return same and stored is not None


def digest(secret: str) -> str:
    """For secrets with 256 bits of their own: nothing to guess, so nothing to slow down."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + 2**20, dklen=32)


def _parts(stored: str) -> tuple[int, int, int, bytes, bytes]:
    _, n, r, p, salt, expected = stored.split("$")
    return int(n), int(r), int(p), b64decode(salt), b64decode(expected)


def _text(value: bytes) -> str:
    return b64encode(value).decode()


DECOY = "$".join(["scrypt", str(N), str(R), str(P), _text(bytes(16)), _text(bytes(32))])

"""A name from data as the name of one folder: safe on every file system we know of, and read back.

>>> folder_name("jetblue"), folder_name("self-driving cars"), folder_name("../../escaped")
('jetblue', 'self-driving cars', '%2E%2E%2F%2E%2E%2Fescaped')
>>> name_of("%2E%2E%2F%2E%2E%2Fescaped")
'../../escaped'

Guarantee: the result is a single path component that is none of ".", ".." and hidden; two names never share one.
"""

from __future__ import annotations

import hashlib
import string
from urllib.parse import unquote_to_bytes

PLAIN = frozenset((string.ascii_letters + string.digits + "-_ ").encode())
LONGEST = 200
"""Bytes; file systems take 255, and whoever writes into the folder may add to its name."""

_CUT = "%~"  # no percent-encoded name holds it


def folder_name(name: str) -> str:
    """Letters, digits, hyphens, underscores and inner spaces stay; every other byte of its UTF-8 is %XX.

    What would be longer than `LONGEST` is cut and ends in a digest: still one name's alone, no longer read back.
    ValueError for the empty name.
    """
    if not name:
        raise ValueError("a name must not be empty.")
    content = name.encode("utf-8", "surrogatepass")
    inner = len(content) - 1
    whole = "".join(
        chr(byte) if byte in PLAIN and not (byte == 0x20 and place in (0, inner)) else f"%{byte:02X}"
        for place, byte in enumerate(content)
    )
    if len(whole) <= LONGEST:
        return whole
    digest = hashlib.sha256(content).hexdigest()
    return f"{whole[: LONGEST - len(digest) - len(_CUT)]}{_CUT}{digest}"


def name_of(folder: str) -> str:
    """The name that `folder_name` was given, where it was not cut."""
    return unquote_to_bytes(folder).decode("utf-8", "surrogatepass")

"""Questions before a key or an authority is replaced: an administrator decides whom to trust."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedlora.deployment.enrolment import same_fingerprint
from fedlora.settings import SettingsError

Fingerprint = Annotated[
    str | None,
    typer.Option("--fingerprint", help="The expected fingerprint, as the other side's administrator told you."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def agree(question: str | None, *, yes: bool, found: str = "", expected: str | None = None) -> None:
    """Return if it may be done, raise SettingsError otherwise.

    A fingerprint that was given must be the one that was found, whatever else was said; it answers the question too.
    Without one and without `yes` the question is asked, and where nobody can be asked the answer is no. No question: a
    first time, when nothing is replaced. `found` is empty where there is nothing to compare.
    """
    if expected is not None:
        if not same_fingerprint(expected, found):
            raise SettingsError(
                f"the fingerprint is {found}, not {expected}; nothing was changed. Check it with the other side."
            )
        return
    if question is None or yes:
        return
    if not sys.stdin.isatty():
        by_telephone = "--fingerprint with the fingerprint that the other side told you, or " if found else ""
        raise SettingsError(f"{question} There is no terminal to ask at; add {by_telephone}--yes to confirm.")
    if not typer.confirm(question, default=False):
        raise SettingsError("nothing was changed.")

"""The server certificate is renewed a month before its end, for no longer than its authority lasts."""

from __future__ import annotations

import logging

from fedlora.deployment import split_address
from fedlora.settings import SettingsError
from server.certificates import authority_days_left, days_left, days_to, issue_server_certificate, signer_in
from server.settings import ServerSettings

log = logging.getLogger("fedlora.server")

RENEW_DAYS, ROLL_DAYS = 30, 180
WORTH_DAYS = 1.0
"""A certificate that would end hardly later than the present one is not made: the authority's end is near."""


def renew_if_due(settings: ServerSettings) -> None:
    """A new server certificate where one is due. Not where the authority's key is kept elsewhere, and never an
    exception: a coordinator runs on with the certificate that it has."""
    try:
        left = days_left(settings.pki)
    except SettingsError as error:
        log.warning("the server certificate is made anew", extra={"why": str(error)})
        left = 0.0
    authority = warn_of_end(settings)
    if left > RENEW_DAYS or (authority is not None and authority - left < WORTH_DAYS):
        return
    try:
        issue_server_certificate(settings.pki, hosts=[split_address(settings.address)[0]])
    except (SettingsError, OSError) as error:
        log.warning("the server certificate could not be renewed", extra={"days_left": left, "why": str(error)})
        return
    log.info("the server certificate was due", extra={"days_left": round(left)})


def warn_of_end(settings: ServerSettings) -> float | None:
    """Days until the authority that signs the server certificate ends; None where its key is kept elsewhere. Half a
    year before the newest one ends it is said in the log."""
    try:
        if (newest := authority_days_left(settings.pki)) < ROLL_DAYS:
            log.warning("the authority ends: fedlora admin roll-authority", extra={"days_left": round(newest)})
        signer = signer_in(settings.pki).certificate
    except (SettingsError, OSError):
        return None
    return days_to(signer.not_valid_after_utc)

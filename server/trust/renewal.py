"""The server certificate is renewed a month before its end, for no longer than its authority lasts."""

from __future__ import annotations

import logging
import math

from fedlora.deployment.environment import split_address
from fedlora.settings import SettingsError
from server.settings import ServerSettings
from server.trust.certificates import authority_days_left, days_left, days_to, issue_server_certificate, signer_in

log = logging.getLogger("fedlora.server")

RENEW_DAYS, ROLL_DAYS = 30, 180
WORTH_DAYS = 1.0
"""Smallest gain in days for which a new certificate is made: near the authority's end there is none."""


def renew_if_due(settings: ServerSettings) -> None:
    """A new server certificate where one is due, gone or damaged. SettingsError, and a coordinator that runs on with
    the one that it has, where there is none to be had, as on a machine whose authority's key is kept elsewhere."""
    try:
        left = days_left(settings.pki)
        said = f"the server certificate expires in {left:.0f} days"
    except SettingsError as error:
        left, said = -math.inf, str(error)
    if left > RENEW_DAYS or _lasts_no_longer(settings, left):
        return
    try:
        issue_server_certificate(settings.pki, hosts=[split_address(settings.address)[0]])
    except (SettingsError, OSError) as error:
        raise SettingsError(f"{said} and could not be renewed: {error} Fix this, then: fedlora admin renew") from None
    log.info("the server certificate was due for renewal", extra={"was": said})


def require_lasting_authority(settings: ServerSettings) -> None:
    """SettingsError half a year before the newest authority ends, and with it every certificate."""
    if (newest := authority_days_left(settings.pki)) < ROLL_DAYS:
        raise SettingsError(f"the authority expires in {newest:.0f} days: fedlora admin roll-authority")


def _lasts_no_longer(settings: ServerSettings, left: float) -> bool:
    """Whether a new certificate would end with its authority, hardly later than the present one; no where the
    authority's key is kept elsewhere."""
    try:
        signer = signer_in(settings.pki).certificate
    except (SettingsError, OSError):
        return False
    return days_to(signer.not_valid_after_utc) - left < WORTH_DAYS

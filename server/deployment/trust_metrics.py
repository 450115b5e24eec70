"""Metrics for alerts besides runs: expiring certificates, free disk space, sites that never connected.

A file that cannot be read costs its own metrics and no others: an alert on what is absent says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client.core import GaugeMetricFamily

from fedlora.settings import SettingsError
from server.flower.admitted import read_seen
from server.settings import ServerSettings
from server.trust.certificates import authority_days_left, days_left
from server.trust.grants import read_granted
from server.trust.provision import read_registry

Gauge = GaugeMetricFamily


def of_trust(settings: ServerSettings) -> Iterator[Gauge]:
    """Days, bytes, and times in seconds since 1970; 0 for a site that was never here."""
    with suppress(SettingsError):
        yield Gauge("fedlora_certificate_days", "Until the server certificate expires", days_left(settings.pki))
    with suppress(SettingsError):
        said = "Until the certificate authority expires, and every certificate with it"
        yield Gauge("fedlora_authority_days", said, authority_days_left(settings.pki))
    with suppress(OSError):
        free = shutil.disk_usage(settings.folder).free
        yield Gauge("fedlora_disk_free_bytes", "Free disk space for checkpoints, rounds and logs", free)
    yield from _of_sites(settings)


def _of_sites(settings: ServerSettings) -> Iterator[Gauge]:
    try:
        approved = read_registry(settings).approved
    except SettingsError:
        return
    seen, granted = read_seen(settings.folder), read_granted(settings.folder)
    last = Gauge("fedlora_site_seen_timestamp_seconds", "When an approved site last connected", labels=["site"])
    since = Gauge("fedlora_site_granted_timestamp_seconds", "When its last grant was issued", labels=["site"])
    for site in approved:
        last.add_metric([site], seen.get(site, 0.0))
        if site in granted:
            since.add_metric([site], granted[site].at)
    yield from (last, since)

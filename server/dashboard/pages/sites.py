"""The page of all sites: which take part, which are missing, their devices and their traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from fedlora import __version__
from fedlora.protocol.machine import Machine
from server.dashboard.drawing.live import Html, Live
from server.dashboard.drawing.markup import Column, Figure, Row, Tone, badge, figures, moment, pairs, table
from server.dashboard.drawing.units import NOTHING, counted, duration, size
from server.dashboard.drawing.words import OUTCOMES
from server.dashboard.pages.shell import page
from server.dashboard.state import AppState
from server.flower.admitted import read_seen
from server.settings import ServerSettings
from server.store.reading import read_sites
from server.store.rows import SiteRow
from server.trust.certificates import authority_days_left, days_left
from server.trust.provision import read_registry
from server.trust.renewal import ROLL_DAYS

SOON_DAYS = 30
COLUMNS = (
    Column("Site"),
    Column("Last seen"),
    Column("Last round"),
    Column("Trained", number=True, hint="Rounds in which it trained, of those in which it was asked, over all runs"),
    Column("Not trained", hint="Late, refused, failed"),
    Column("Round time", number=True, hint="Mean of the rounds in which it trained"),
    Column("Sent", number=True),
    Column("Received", number=True),
    Column("Runs on", hint="Version of fedlora and device, as reported by the site"),
    Column("Declared resources", hint="Resources that the site declared for training"),
)
EMPTY = (
    "No site has been asked yet. Sites join with `fedlora client enroll` and `fedlora admin approve`; those of "
    "a simulation appear with its first round."
)


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    sites: tuple[SiteRow, ...]
    coordinator: Coordinator | None


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's own state, if its folder is on this machine: approved sites, and how long its certificate is
    valid."""

    name: str
    certificate_days: int
    authority_days: int
    never_came: tuple[str, ...]
    approved: tuple[str, ...]
    revoked: tuple[str, ...]


def coordinator_of(board: AppState) -> Coordinator | None:
    settings = None if board.pad is None else board.pad.deployment
    try:
        return None if settings is None else coordinator_in(settings)
    except (OSError, ValueError):  # a damaged registry or certificate: the runs' page says what the coordinator does
        return None


def coordinator_in(settings: ServerSettings) -> Coordinator:
    sites = read_registry(settings).sites
    by_status = {
        status: tuple(sorted(name for name, site in sites.items() if site.status == status))
        for status in ("approved", "revoked")
    }
    seen = read_seen(settings.folder)
    return Coordinator(
        name=settings.name,
        certificate_days=int(days_left(settings.pki)),
        authority_days=int(authority_days_left(settings.pki)),
        never_came=tuple(site for site in by_status["approved"] if site not in seen),
        approved=by_status["approved"],
        revoked=by_status["revoked"],
    )


async def show(board: AppState, request: Request) -> None:
    def read(connection: Connection) -> Shown:
        return Shown(tuple(read_sites(connection)), coordinator_of(board))

    first = await board.read(read)
    with page(request, "Sites", here="/sites"):
        live = Live(board, lambda: board.read(read), first)
        with ui.element("div").classes("heading"):
            Html(Markup("<h1>Sites</h1><p>All runs in this store.</p>"))
        live.html(lambda value: summary(value.sites))
        with ui.element("section").classes("card").props('aria-label="Sites"'):
            live.html(lambda value: site_table(value.sites))
        live.html(lambda value: Markup("") if value.coordinator is None else who_may(value.coordinator))


def summary(sites: Sequence[SiteRow]) -> Markup:
    missing = [site for site in sites if site.missing_since is not None]
    asked, trained = sum(site.asked for site in sites), sum(site.trained for site in sites)
    names = ", ".join(site.site for site in missing[:3])
    return figures(
        [
            Figure("Sites", str(len(sites)), f"{sum(site.kind == 'deployment' for site in sites)} deployed"),
            Figure("Missing", str(len(missing)), names, "bad" if missing else "plain"),
            Figure(
                "Answered", f"{100 * trained / asked:.0f} %" if asked else NOTHING, f"of {counted(asked, 'request')}"
            ),
            Figure("Traffic", size(sum(site.bytes_up + site.bytes_down for site in sites)), "both ways"),
        ]
    )


def site_table(sites: Sequence[SiteRow]) -> Markup:
    return table("Sites", COLUMNS, map(site_row, sites), empty=EMPTY)


def site_row(site: SiteRow) -> Row:
    last = badge(site.last_outcome, OUTCOMES[site.last_outcome])
    missed = f"missed {counted(site.missed_in_a_row, 'round')} in a row" if site.missed_in_a_row > 1 else ""
    why = " · ".join(part for part in (site.last_code or "", missed, site.last_run) if part)
    missing = Markup("<small>missing since {}</small>").format(moment(site.missing_since)) if site.missing_since else ""
    not_trained = [f"{count} {name}" for name in ("late", "refused", "failed") if (count := getattr(site, name))]
    cells = (
        Markup("{}<small>{} · {}</small>").format(site.site, site.kind, counted(site.runs, "run")),
        Markup("{}{}").format(moment(site.last_seen_at, "ago"), missing),
        last + Markup("<small>{}</small>").format(why),
        f"{site.trained} of {site.asked}",
        ", ".join(not_trained) or "never",
        duration(site.mean_seconds),
        size(site.bytes_up),
        size(site.bytes_down),
        runs_on(site),
        resources(site),
    )
    return Row(f"{site.kind} {site.site}", cells, "bad" if site.missing_since is not None else "plain")


def who_may(coordinator: Coordinator) -> Markup:
    """The coordinator's own certificate, and the sites whose keys it accepts."""
    authority = time_left(coordinator.authority_days, soon=ROLL_DAYS)
    never = Markup("<small>never connected: {}</small>").format(", ".join(coordinator.never_came))
    approved = Markup("{}").format(", ".join(coordinator.approved) or "none yet; approve with: fedlora admin approve")
    return Markup('<section class="card" aria-label="Coordinator"><h2>Coordinator {}</h2>{}</section>').format(
        coordinator.name,
        pairs(
            [
                ("Server certificate", time_left(coordinator.certificate_days, soon=SOON_DAYS)),
                (
                    "Authority",
                    Markup("{} {}").format(
                        authority, "applies to all certificates; renew with: fedlora admin roll-authority"
                    ),
                ),
                ("Approved sites", approved + never if coordinator.never_came else approved),
                ("Revoked sites", ", ".join(coordinator.revoked) or "none"),
            ]
        ),
    )


def time_left(days: int, *, soon: int) -> Markup:
    tone: Tone = "bad" if days < 0 else "warn" if days < soon else "good"
    return badge("expired" if days < 0 else f"{counted(days, 'day')} left", tone)


MEANINGS = {
    "r": "rank {}",
    "depth": "{} layers",
    "memory_mb": "{} MB",
    "megabits_s": "{} Mbit/s",
    "step_s": "{} s a step",
    "device": "{}",
}


def runs_on(site: SiteRow) -> Markup:
    """Version and device; marked where the version is not the coordinator's."""
    if site.machine is None:
        return Markup("{}").format("simulated here" if site.kind == "simulation" else "not reported")
    machine = Machine.model_validate(site.machine)
    version = (
        machine.fedlora if machine.fedlora == __version__ else badge(f"{machine.fedlora}, not {__version__}", "warn")
    )
    return Markup('{}<small title="{}">{}</small>').format(version, machine.versions, machine.place)


def resources(site: SiteRow) -> str:
    """What was declared, in words; the settings that shape a plan, such as targets, are left out."""
    declared = site.resources or {}
    said = [text.format(declared[name]) for name, text in MEANINGS.items() if declared.get(name) is not None]
    return ", ".join(said) or "none"

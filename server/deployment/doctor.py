"""`fedlora server doctor`: everything that a coordinator needs, each with its remedy; nothing is changed."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy.engine import make_url

from fedlora.config import load
from fedlora.data.row import labels_in
from fedlora.data.rows import Read
from fedlora.deployment import checks
from fedlora.deployment.environment import split_address
from fedlora.deployment.findings import Finding, bad, doubtful, examine_all, good
from fedlora.plugins.gate import open_to
from fedlora.processes.sockets import accepts
from fedlora.settings import SettingsError
from fedlora.tasks.registry import has_classes
from server.runs.held_out import held_out
from server.runs.submissions import look_at, runs, state_of
from server.settings import ServerSettings, load_server
from server.trust.provision import is_reconciled, read_registry
from server.trust.renewal import ROLL_DAYS

POSTGRESQL_PORT = 5432


def examine(config: Path) -> list[Finding]:
    """All findings; with an unreadable server.yaml there is only one."""
    try:
        settings = load_server(config)
    except SettingsError as error:
        return [bad("settings", str(error), f"Fix {config}, or create it with: fedlora admin init")]
    open_to(settings.plugins)
    host, _ = split_address(settings.address)
    renew = f"fedlora admin renew --config {config}"
    return examine_all(
        [
            ("versions", checks.versions),
            ("commands", lambda: checks.commands("flower-superlink", "flower-superexec", "flwr-serverapp", "flwr")),
            ("authority key", lambda: checks.private("authority key", settings.pki / "ca.key")),
            ("server key", lambda: checks.private("server key", settings.pki / "server.pem")),
            ("secret", lambda: checks.private("secret", settings.secret)),
            ("server certificate", lambda: server_certificate(settings, host, renew)),
            ("authority", lambda: authority(settings)),
            ("fleet port", lambda: fleet(settings)),
            ("control port", lambda: control(settings)),
            ("clock", checks.clock),
            ("disk", lambda: checks.disk(settings.folder)),
            ("device", lambda: checks.device(settings.device or "cpu")),
            ("store", lambda: store(settings)),
            ("classes", lambda: classes(settings)),
            ("sites", lambda: sites(settings)),
            ("runs", lambda: all_runs(settings)),
            *((f"base model of {run.name}", partial(base_model, run)) for run in unfinished(settings)),
        ]
    )


def server_certificate(settings: ServerSettings, host: str, remedy: str) -> Finding:
    """What sites are shown."""
    return checks.certificate("server certificate", settings.pki / "server.pem", remedy=remedy, host=host)


def authority(settings: ServerSettings) -> Finding:
    """What sites trust."""
    remedy = "fedlora admin roll-authority, then a new grant for every site."
    return checks.certificate("authority", settings.pki / "ca.crt", remedy=remedy, warn_days=ROLL_DAYS)


def fleet(settings: ServerSettings) -> Finding:
    """The port that sites need."""
    if listening(settings):
        return good("fleet port", f"listening at {settings.listen}")
    return doubtful("fleet port", f"nothing is listening at {settings.listen}", "fedlora server up")


def listening(settings: ServerSettings) -> bool:
    """Whether both APIs accept connections."""
    host, port = split_address(settings.listen)
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return accepts(loopback, port) and accepts("127.0.0.1", settings.control_port)


def control(settings: ServerSettings) -> Finding:
    """The Control API runs code on the coordinator and is not authenticated: nobody outside may reach it."""
    reached = [address for address in outside_addresses() if accepts(address, settings.control_port)]
    if reached:
        return bad(
            "control port",
            f"port {settings.control_port} answers at {', '.join(reached)}: anyone can submit runs",
            "Stop the program that forwards it (docker -p, socat, ssh -g); it must be reachable on 127.0.0.1 only.",
        )
    return good("control port", f"port {settings.control_port} is not reachable from other machines")


def outside_addresses() -> list[str]:
    """This machine's addresses that are not loopback."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return []
    return sorted(address for address in found if not ipaddress.ip_address(address.partition("%")[0]).is_loopback)


def store(settings: ServerSettings) -> Finding:
    """Whether the dashboard's database can be reached; nothing is opened in it, so that no schema is changed."""
    if "://" not in settings.store_url:
        return good("store", f"the file {settings.store_url}")
    url = make_url(settings.store_url)
    shown = url.render_as_string(hide_password=True)
    if url.host is None or accepts(url.host, url.port or POSTGRESQL_PORT):
        return good("store", shown)
    return bad(
        "store",
        f"{shown} does not answer: runs continue, but the dashboard cannot show them",
        "Start the database or correct `store` in server.yaml, then: fedlora runs import",
    )


def asks_for_classes(settings: ServerSettings) -> bool:
    """Whether the test set, or a run that is not over, sorts into classes. True where there is neither."""
    own = [] if settings.held_out is None else [settings.held_out.task]
    recipes = (load(run / "recipe.yaml") for run in unfinished(settings))
    tasks = [*own, *(recipe.model.task for recipe in recipes)]
    return not tasks or any(map(has_classes, tasks))


def own_test_set(read: Read | None) -> Finding:
    """Rounds are evaluated only with a test set."""
    if read is None:
        return doubtful("test set", "none", "Set held_out in server.yaml to see quality.")
    return good("test set", f"{len(read.rows)} examples to test on")


def classes(settings: ServerSettings) -> Finding:
    """The head needs its classes, where there are any; rounds are evaluated only with a test set."""
    read = held_out(settings)
    if not asks_for_classes(settings):
        return own_test_set(read)
    rows = read.rows if read else ()
    labels = settings.labels or labels_in(rows)
    if len(labels) < 2:
        remedy = "Set labels or held_out in server.yaml; or data.labels in every recipe."
        return doubtful("classes", "neither labels nor held_out is set", remedy)
    if not rows:
        return doubtful(
            "classes", f"{', '.join(labels)}; no test set", "Set held_out in server.yaml to measure quality."
        )
    return good("classes", f"{', '.join(labels)}; {len(rows)} examples to test on")


def sites(settings: ServerSettings) -> Finding:
    """Who takes part."""
    registry = read_registry(settings)
    approved = [name for name, site in registry.sites.items() if site.status == "approved"]
    if not approved:
        return doubtful("sites", "no site is approved", "fedlora admin approve request.json")
    if not is_reconciled(registry):
        return doubtful("sites", "a change has not reached the SuperLink yet", "fedlora server up")
    return good("sites", f"{len(approved)} approved: {', '.join(approved)}")


def unfinished(settings: ServerSettings) -> list[Path]:
    """Runs whose sites need their base model."""
    return [folder for folder in runs(settings) if state_of(folder) not in ("finished", "stopped")]


def base_model(run: Path) -> Finding:
    """The fingerprint that every site must have: `client doctor --model` says theirs."""
    found = checks.base_model(load(run / "recipe.yaml").model)
    return replace(found, check=f"base model of {run.name}")


def all_runs(settings: ServerSettings) -> Finding:
    """Runs that need a person."""
    damaged = {folder.name: look.why for folder in runs(settings) if (look := look_at(folder)).state == "damaged"}
    if damaged:
        said = "; ".join(f"{name} cannot be read: {why}" for name, why in damaged.items())
        return bad("runs", said, "Restore it from a backup, or move its folder away.")
    stuck = [folder.name for folder in runs(settings) if state_of(folder) == "gave-up"]
    if stuck:
        return bad("runs", f"failed: {', '.join(stuck)}", "fedlora server logs NAME, then: fedlora server resume NAME")
    return good("runs", f"{len(runs(settings))} known, none has failed")

"""`fedlora server up`: SuperLink and ServerApp executor, kept alive; sites registered; runs started and resumed."""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import partial
from pathlib import Path

from fedlora.checks import accepts
from fedlora.deployment import command, flower_environment, split_address
from fedlora.health import serve_health, serve_metrics
from fedlora.private_files import require_private
from fedlora.settings import SettingsError
from fedlora.supervise import Child, Supervisor
from server.certificates import join_old_pair, stamp
from server.control import Control, ControlError
from server.link_database import give_up, give_up_if_damaged, is_damaged
from server.metrics import exposition
from server.notify import Notifier
from server.provision import is_reconciled, read_registry, reconcile
from server.renewal import renew_if_due
from server.settings import ServerSettings
from server.store.opening import open_store
from server.submissions import go_on
from server.told import tell_waiting
from server.webhooks import secret_of

log = logging.getLogger("fedlora.server")

TICK_S = 1.0
RETRY_S = 5.0
RENEW_LOOK_S = 3600.0
CLOCK_STEP_S = 60.0
"""A clock that is set back by less costs a site at most as long as its heartbeat does."""


def serve(settings: ServerSettings, config: Path) -> None:
    """Until a signal comes."""
    require_private(settings.secret)
    join_old_pair(settings.pki)
    require_private(settings.pki / "server.pem")
    tell_waiting(settings)
    control = Control(settings)
    duties = Duties(settings, control)
    supervisor = Supervisor(children(settings, config), tick=lambda: duties.tick(supervisor))
    health = serve_health(supervisor.health, port=settings.health_port)
    if settings.metrics_listen is not None:
        host, port = split_address(settings.metrics_listen)
        serve_metrics(lambda: exposition(settings, supervisor.health), host=host, port=port)
    notifier = start_webhooks(settings)
    log.info(
        "coordinator", extra={"coordinator": settings.name, "fleet": settings.listen, "health_port": health.server_port}
    )
    try:
        supervisor.run()
    finally:
        health.shutdown()
        if notifier is not None:
            notifier.stop()


def start_webhooks(settings: ServerSettings) -> Notifier | None:
    """A secret that cannot be read stops the start; a store that cannot be reached costs the messages alone."""
    if not settings.webhooks:
        return None
    for hook in settings.webhooks:
        secret_of(hook)
    try:
        notifier = Notifier(open_store(settings.store_url), settings.webhooks)
    except SettingsError as error:
        log.warning("webhooks are not served", extra={"why": str(error)})
        return None
    notifier.start()
    return notifier


def children(settings: ServerSettings, config: Path) -> list[Child]:
    """SuperLink first; the executor acquires ServerApps from it. A bundle carries no code, so nothing is installed."""
    logs = settings.folder / "logs"
    if settings.log_to == "files":
        logs.mkdir(exist_ok=True)
    pki = settings.pki
    superlink = [
        sys.executable, "-m", "server.superlink", str(settings.folder), settings.site_certificates,
        "--host", "127.0.0.1", "--port", str(settings.control_port),
        "--fleet-api-address", settings.listen,
        "--ssl-ca-certfile", str(pki / "ca.crt"),
        "--ssl-certfile", str(pki / "server.pem"), "--ssl-keyfile", str(pki / "server.pem"),
        "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        "--database", str(settings.database),
        "--isolation", "process", "--superexec-auth-secret-file", str(settings.secret),
    ]  # fmt: skip
    executor = [
        command("flower-superexec"),
        "--runtime-api-address", settings.control, "--root-certificates", str(pki / "ca.crt"),
        "--superexec-auth-secret-file", str(settings.secret), "--parent-pid", str(os.getpid()),
    ]  # fmt: skip

    def log_of(name: str) -> Path | None:
        return logs / f"{name}.log" if settings.log_to == "files" else None

    extra = {"FEDLORA_SERVER": str(config.resolve()), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    return [
        Child(
            "superlink",
            superlink,
            flower_environment(settings.home("superlink"), {"FLWR_LOG_LEVEL": "WARNING"}),
            log_of("superlink"),
            ready=lambda: listens(settings),
            before=partial(give_up_if_damaged, settings.database),
        ),
        Child("executor", executor, flower_environment(settings.home("executor"), extra), log_of("executor")),
    ]


def listens(settings: ServerSettings) -> bool:
    """Whether both APIs accept connections."""
    host, port = split_address(settings.listen)
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return accepts(loopback, port) and accepts("127.0.0.1", settings.control_port)


class Duties:
    """What the coordinator does besides keeping processes alive, about once a second."""

    def __init__(self, settings: ServerSettings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._next = 0.0
        self._told = False
        self._superlink: object = None
        self._registry_seen = 0.0
        self._certificate = stamp(settings.pki)
        self._next_renewal = 0.0
        self._clock_offset = time.time() - time.monotonic()
        if (database := settings.database).exists() and database.stat().st_mtime > time.time() + CLOCK_STEP_S:
            self._forget_future()

    def tick(self, supervisor: Supervisor) -> None:
        """Register and cut off sites, start and resume runs, renew the certificate and take a renewed one up."""
        started = time.monotonic()  # a wall clock that is set back would put everything off
        if started < self._next:
            return
        self._next = started + TICK_S
        offset = time.time() - started
        if offset < self._clock_offset - CLOCK_STEP_S:
            self._forget_future()
            supervisor.kill("superlink")
            return
        self._clock_offset = offset
        if started >= self._next_renewal:
            self._next_renewal = started + RENEW_LOOK_S
            renew_if_due(self._settings)
        if (certificate := stamp(self._settings.pki)) not in (None, self._certificate):
            self._certificate = certificate
            log.info("the certificates were renewed: the SuperLink is restarted")
            supervisor.restart("superlink")
            return
        superlink = supervisor.health()["superlink"]
        if not superlink["ready"]:
            return
        if superlink["pid"] != self._superlink:  # a new one, which may have lost its database
            self._superlink, self._told = superlink["pid"], False
        try:
            self._reconcile()
            go_on(self._settings, self._control, now=time.time())
        except (ControlError, OSError) as error:
            log.warning("the control API did not answer", extra={"why": str(error)})
            self._next = started + RETRY_S
            if is_damaged(self._settings.database):
                supervisor.kill("superlink")  # the next one begins without it

    def _reconcile(self) -> None:
        changed = (self._settings.folder / "sites.json").stat().st_mtime
        if self._told and (changed == self._registry_seen or is_reconciled(read_registry(self._settings))):
            return
        registry = reconcile(self._settings, self._control)
        self._told = True
        self._registry_seen = (self._settings.folder / "sites.json").stat().st_mtime
        log.info("sites are registered", extra={"sites": registry.approved})

    def _forget_future(self) -> None:
        """After this clock was set back: the SuperLink's database says of every site that it is there until some time
        that is still to come, and Flower lets none of them in again before. It holds nothing that is not known here:
        sites are registered again, and runs go on from their checkpoints."""
        log.warning("this machine's clock was set back: the SuperLink's database is given up, sites and runs are not")
        self._clock_offset = time.time() - time.monotonic()
        give_up(self._settings.database)

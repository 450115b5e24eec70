"""`fedlora server up`: SuperLink and ServerApp executor, kept alive; sites registered; runs started and resumed."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedlora.deployment.environment import command, flower_environment, split_address
from fedlora.deployment.health import serve_health, serve_metrics
from fedlora.deployment.private_files import require_private
from fedlora.processes.duties import Background, Conditions, Routine, in_words
from fedlora.processes.living import Process, end, environment_of
from fedlora.processes.ownership import sole_owner
from fedlora.processes.sockets import OwnPort
from fedlora.processes.supervise import STOP_S, Child, Supervisor
from fedlora.settings import SettingsError
from server.deployment.at_flower import AtFlower
from server.deployment.metrics import exposition
from server.deployment.notify import Notifier
from server.deployment.said import EVERY_S, write_said
from server.flower.control import Control
from server.flower.link_database import give_up, give_up_if_damaged
from server.runs.submissions import look_at, runs
from server.settings import ServerSettings
from server.store.opening import open_store
from server.trust.certificates import join_old_pair, server_certificate, stamp
from server.trust.renewal import renew_if_due, require_lasting_authority
from server.trust.told import tell_waiting
from server.webhooks import secret_of

log = logging.getLogger("fedlora.server")

SERVED = "FEDLORA_SERVER"
"""The variable by which a ServerApp knows its coordinator's server.yaml."""
TICK_S = 1.0
RENEW_LOOK_S = 3600.0
CLOCK_STEP_S = 60.0
"""A clock set back by less than this, in seconds, disconnects a site for at most a heartbeat."""


def serve(settings: ServerSettings, config: Path) -> None:
    """Until a signal comes. SettingsError if another coordinator has this folder."""
    with sole_owner(settings.folder, f"the coordinator {settings.name}"):
        _serve(settings, config)


def _serve(settings: ServerSettings, config: Path) -> None:
    require_private(settings.secret)
    join_old_pair(settings.pki)
    require_private(settings.pki / "server.pem")
    tell_waiting(settings)
    duties = Duties(settings, Control(settings))
    supervisor = Supervisor(
        children(settings, config),
        tick=lambda: duties.tick(supervisor),
        record=settings.folder / "processes.json",
        conditions=duties.conditions,
    )
    health = serve_health(
        supervisor.health, port=settings.health_port, conditions=duties.conditions.all, vital=("superlink",)
    )
    if settings.metrics_listen is not None:
        host, port = split_address(settings.metrics_listen)
        serve_metrics(lambda: exposition(settings, supervisor.health, duties.conditions.all), host=host, port=port)
    notifier = start_webhooks(settings)
    log.info(
        "coordinator", extra={"coordinator": settings.name, "fleet": settings.listen, "health_port": health.server_port}
    )
    end_serverapps(settings, config)
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
        log.warning("webhooks cannot be sent", extra={"why": str(error)})
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
        sys.executable, "-m", "server.flower.superlink",
        str(settings.folder), settings.site_certificates, str(settings.patience.start_s),
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

    extra = {SERVED: str(config.resolve()), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    return [
        Child(
            "superlink",
            superlink,
            flower_environment(settings.home("superlink"), {"FLWR_LOG_LEVEL": "WARNING"}),
            log_of("superlink"),
            lacks=lacks_ports(settings),
            before=partial(give_up_if_damaged, settings.database),
        ),
        Child("executor", executor, flower_environment(settings.home("executor"), extra), log_of("executor")),
    ]


def lacks_ports(settings: ServerSettings) -> Callable[[int], str | None]:
    """What a SuperLink is still waiting for: both ports must be its own, not another process's."""
    ports = (OwnPort(split_address(settings.listen)[1]), OwnPort(settings.control_port))
    return lambda pid: next((said for port in ports if (said := port.lacks(pid)) is not None), None)


def end_serverapps(settings: ServerSettings, config: Path) -> None:
    """Those of an earlier coordinator of this folder that was killed: they would hold their runs against the next
    attempt. The notes of a folder that was restored from a backup may name those of a coordinator that is at work."""
    left = [look.status for folder in runs(settings) if (look := look_at(folder)).at_work and look.status is not None]
    noted = [Process(status.pid, status.born) for status in left]
    own = [process for process in noted if environment_of(process, SERVED) == str(config.resolve())]
    for process in end(own, patience_s=STOP_S):
        log.warning("a ServerApp of an earlier coordinator was stopped", extra={"pid": process.pid})


class Duties:
    """What the coordinator does besides keeping processes alive, about once a second.

    Guarantee: `tick` neither raises nor waits for Flower; what is wrong is in `conditions`.
    """

    def __init__(self, settings: ServerSettings, control: Control) -> None:
        self._settings = settings
        self.conditions = Conditions()
        self.flower = AtFlower(
            settings,
            control,
            self.conditions,
            since=time.time() - time.monotonic(),
            kill=lambda: self._met.kill("superlink"),
        )
        self._background = Background(self.flower.turn, name="flower")
        self._notes = Background(self._write_down, name="notes")
        self._written: tuple[float, object] = (-math.inf, None)
        self._next = 0.0
        self._certificate = stamp(settings.pki)
        self._next_renewal = 0.0
        self._clock_offset = time.time() - time.monotonic()
        self._own = Routine(
            {
                "clock": self._look_at_clock,
                "authority": lambda: require_lasting_authority(settings),
                "certificate": self._renew_certificate,
                "renewed certificate": self._take_up_certificate,
                "flower": self._look_at_flower,
            },
            conditions=self.conditions,
        )
        self._supervisor: Supervisor | None = None
        if (database := settings.database).exists() and database.stat().st_mtime > time.time() + CLOCK_STEP_S:
            self._forget_future()

    def tick(self, supervisor: Supervisor) -> None:
        """About once a second, however often it is called."""
        started = time.monotonic()  # a wall clock that is set back would put everything off
        if started < self._next:
            return
        self._next = started + TICK_S
        self.look(supervisor)
        try:
            self._background.wake()
            self._notes.wake()
        except RuntimeError as error:  # no thread left on this machine
            self.conditions.say("flower", in_words(error))

    def look(self, supervisor: Supervisor) -> None:
        """Check the clock, the certificates, and whether there is a SuperLink to call."""
        self._supervisor = supervisor
        self._own.turn()

    def _look_at_clock(self) -> None:
        offset = time.time() - time.monotonic()
        if offset < self._clock_offset - CLOCK_STEP_S:
            self._forget_future()
            self._met.kill("superlink")
        self._clock_offset = offset

    def _renew_certificate(self) -> None:
        """Renew the server certificate if it is due, missing or damaged; changes by others are noticed too."""
        now = time.monotonic()
        if now >= self._next_renewal or stamp(self._settings.pki) != self._certificate:
            self._next_renewal = now  # one that fails is tried again, though the present one is taken up meanwhile
            renew_if_due(self._settings)
            self._next_renewal = now + RENEW_LOOK_S

    def _take_up_certificate(self) -> None:
        """When it or the authorities have changed; one that cannot be read is not."""
        found = stamp(self._settings.pki)
        if found in (None, self._certificate):
            return
        server_certificate(self._settings.pki)
        self._certificate = found
        log.info("the certificates were renewed: the SuperLink restarts")
        self._met.restart("superlink")

    def _look_at_flower(self) -> None:
        superlink = self._met.health()["superlink"]
        self.flower.meet(superlink["pid"] if superlink["ready"] else None)

    def _write_down(self) -> None:
        """Write the current problems for the dashboard, in a thread, because a disk may stall."""
        found, now = self.conditions.all(), time.monotonic()
        if found is self._written[1] and now - self._written[0] < EVERY_S:
            return
        try:
            write_said(self._settings.folder, found, at=time.time())
        except OSError as error:
            self.conditions.say("coordinator.json", in_words(error))
            return
        self._written = now, found
        self.conditions.say_if_any("coordinator.json", None)

    def _forget_future(self) -> None:
        """After this clock was set back: the SuperLink's database says of every site that it is there until some time
        that is still to come, and Flower lets none of them in again before. It holds nothing that is not known here:
        sites are registered again, and runs go on from their checkpoints."""
        log.warning("this machine's clock was set back: the SuperLink's database is discarded; sites and runs are kept")
        give_up(self._settings.database)

    @property
    def _met(self) -> Supervisor:
        assert self._supervisor is not None  # `look` says which
        return self._supervisor

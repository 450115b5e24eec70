"""`fedlora client up`: a SuperNode and an executor, kept alive. One process for an administrator to look after.

Before a SuperNode is started the agent says good-bye for the one before it, which may have been killed
(`client.flower.deregister`). Where that fails, the coordinator refuses the new one for up to 60 s, and the supervisor's
back-off tries again.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from client.deployment.throttle import Throttle
from client.flower.deregister import deregister
from client.flower.standing import standing
from client.flower.watchdog import CONDITION, Watchdog
from client.offline import environment
from client.settings import ClientSettings
from fedlora.deployment.environment import command, flower_environment, split_address
from fedlora.deployment.health import serve_health
from fedlora.deployment.private_files import require_private, write_private
from fedlora.processes.duties import Background, Conditions, Routine
from fedlora.processes.ownership import sole_owner
from fedlora.processes.sockets import OwnPort, connected
from fedlora.processes.supervise import Child, Supervisor
from fedlora.settings import SettingsError, read_mapping

log = logging.getLogger("fedlora.agent")


REVOKED_STATUS = 77
"""Exit status of an agent whose site is revoked (EX_NOPERM of sysexits.h): not to be started again by itself."""


def serve(settings: ClientSettings, config: Path) -> None:
    """Until a signal comes. SettingsError if another agent has this folder or its ledger; SystemExit(77) if the site is
    revoked."""
    what = f"the agent of {settings.site}"
    with ExitStack() as owned:
        owned.enter_context(sole_owner(settings.folder, what))
        if settings.state.resolve() != settings.folder.resolve():  # ledger and residual, wherever they are
            settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            owned.enter_context(sole_owner(settings.state, what))
        _serve(settings, config)


def _serve(settings: ClientSettings, config: Path) -> None:
    require_ready(settings)
    if not settings.secret.exists():
        write_private(settings.secret, secrets.token_hex(32).encode())
    port = settings.runtime_port or free_port()
    throttle = throttled(settings)
    coordinator = settings.coordinator if throttle is None else throttle.address
    conditions = Conditions()
    watchdog = Watchdog(
        settings,
        connected=partial(connected, own_port=port),
        standing=partial(standing, settings),
        conditions=conditions,
    )
    duties = Routine({"watchdog": lambda: watchdog.look(supervisor)}, conditions=conditions)
    background = Background(duties.turn, name="watchdog")
    supervisor = Supervisor(
        children(settings, config, port=port, coordinator=coordinator),
        tick=background.wake,
        record=settings.folder / "processes.json",
        conditions=conditions,
    )
    health = serve_health(supervisor.health, port=settings.health_port, conditions=conditions.all, vital=(CONDITION,))
    log.info(
        "agent",
        extra={"site": settings.site, "coordinator": settings.coordinator, "health_port": health.server_port},
    )
    try:
        supervisor.run()
    finally:
        health.shutdown()
    if watchdog.is_revoked:
        raise SystemExit(REVOKED_STATUS)


def throttled(settings: ClientSettings) -> Throttle | None:
    """What holds the site's line to its limit; None where there is none."""
    if settings.limits.megabits_s is None:
        return None
    return Throttle(split_address(settings.coordinator), megabits_s=settings.limits.megabits_s)


def require_ready(settings: ClientSettings) -> None:
    """Refuse to start with what cannot work or must not be."""
    split_address(settings.coordinator)
    require_private(settings.node_key)
    if not settings.ca_certificate.exists():
        raise SettingsError(
            f"{settings.ca_certificate} is missing: take the coordinator's grant with `fedlora client accept`."
        )
    if settings.policy is not None:  # every task would fail for it, and only the coordinator would hear of it
        read_mapping(settings.policy, f"the policy {settings.policy}")
    if settings.executor == "stock" and settings.allow_bundles != "any":
        raise SettingsError(
            "executor=stock runs whatever code a coordinator ships, without looking; write `allow_bundles: any` in "
            "client.yaml if that is what you want, or use executor: warm."
        )
    if settings.secret.exists():
        require_private(settings.secret)


def children(settings: ClientSettings, config: Path, *, port: int, coordinator: str) -> list[Child]:
    """SuperNode first, then who answers its messages."""
    logs = settings.folder / "logs"
    if settings.log_to == "files":
        logs.mkdir(exist_ok=True)
    address = f"127.0.0.1:{port}"
    supernode = [
        sys.executable, "-m", "client.flower.supernode", str(settings.certificate), str(settings.node_key),
        "--superlink", coordinator, "--root-certificates", str(settings.ca_certificate),
        "--isolation", "process", "--superexec-auth-secret-file", str(settings.secret),
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    if settings.executor == "warm":
        executor = [sys.executable, "-m", "client.flower.executor", address]
    else:
        executor = [
            command("flower-superexec"), "--runtime-api-address", address, "--insecure",
            "--superexec-auth-secret-file", str(settings.secret), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip

    def log_of(name: str) -> Path | None:
        return logs / f"{name}.log" if settings.log_to == "files" else None

    site = {"FEDLORA_SITE": str(config.resolve()), **environment(settings)}
    return [
        Child(
            "supernode",
            supernode,
            flower_environment(settings.home("supernode")),
            log_of("supernode"),
            lacks=OwnPort(port).lacks,
            before=partial(deregister, settings),
        ),
        Child("executor", executor, flower_environment(settings.home("executor"), site), log_of("executor")),
    ]


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many, each another: one that is let go before the next is asked for may be given twice."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]

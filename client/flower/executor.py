"""The warm executor: one process that answers every message of a SuperNode, so that everything stays loaded.

Flower starts a process per message: two CPU seconds of imports, then the base model again. This one acquires tasks from
the SuperNode's loopback Runtime API and answers them itself.

It stands on PRIVATE modules of flwr 1.39 (`flwr.supercore`, `flwr.supernode`), all of them imported here and nowhere
else; tests/deploy/test_executor.py fails if they change, and `executor: stock` in client.yaml goes without.

Guarantee: code that came in a bundle is neither unpacked nor imported unless the bundle's SHA-256 is allowed; the text
of an exception never leaves this process but in this site's log.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.flower.bundles import BundleError, Kind, admit
from client.limits import limit_memory
from client.offline import stay_offline
from client.settings import ClientSettings, load_client
from fedlora.deployment.private_files import require_private
from fedlora.processes.imports import without_collecting
from fedlora.processes.json_logs import log_json_lines
from fedlora.processes.unbegun import end_where_a_thread_cannot_begin
from fedlora.settings import SettingsError

log = logging.getLogger("fedlora.executor")

POLL_S = 0.25
PAUSE_S = 1.0  # after the SuperNode could not be reached
TASK = "flwr-clientapp"

AnyClientApp = Callable[[Message, Context], Message]
Input = tuple[Message, Context, Run, Fab]


class GoneError(Exception):
    """A task whose message the SuperNode withdrew: its run ended while it was being received."""


def connect(address: str, *extra: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """A client of the SuperNode's Runtime API, which is plain HTTP on loopback."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), *extra],
        retry_invoker=make_simple_http_retry_invoker(),
    )


class Executor:
    """Answers tasks one after the other."""

    def __init__(self, settings: ClientSettings, address: str) -> None:
        allowed = settings.allow_bundles
        self._allowed: frozenset[str] = frozenset() if allowed == "any" else frozenset(allowed)
        self._address = address
        self._apps: dict[str, AnyClientApp] = {}
        secret = SuperExecAuthHttpInterceptor(
            master_secret=require_private(settings.secret).read_bytes(),
            protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
        )
        self._node = connect(address, secret)

    def run(self) -> None:
        """Answer tasks until the process ends; waits for a SuperNode that does not answer."""
        while True:
            try:
                worked = self.step()
            except Exception:
                log.exception("the SuperNode did not answer; trying again")
                time.sleep(PAUSE_S)
                continue
            if not worked:
                time.sleep(POLL_S)

    def step(self) -> bool:
        """Acquire and answer one task if there is one."""
        acquired = self._node.AcquireTask(AcquireTaskRequest(supported_task_types=[TASK]))
        if not acquired.HasField("task") or not acquired.token:
            return False
        started = time.monotonic()
        self._answer(acquired.token)
        log.info("answered", extra={"task": acquired.task.task_id, "seconds": round(time.monotonic() - started, 3)})
        from fedlora.devices.lost import require_device  # with torch, which the installed client has imported by now

        require_device()
        return True

    def _answer(self, token: str) -> None:
        client = connect(self._address, RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        message = context = reply = None
        status, code = SubStatus.FAILED, "internal-error"
        try:
            message, context, run, fab = pull(client)
            reply = self._app(run, fab)(message, context)
            status, code = SubStatus.COMPLETED, ""
        except GoneError:
            log.warning("a task is skipped: its run ended while its message was in transit")
        except BundleError as error:
            log.error("a bundle was refused: %s", error)
            code = error.code
        except Exception:
            log.exception("a task failed")
        try:
            if message is not None and reply is None:
                reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=code), reply_to=message)
            if reply is not None and context is not None:
                push_message(client, reply, context)
            push_task_output(client, context, status, code)
        finally:
            heartbeat.stop()
            client.close()

    def _app(self, run: Run, fab: Fab) -> AnyClientApp:
        """The ClientApp that answers: the installed client, or the code of a bundle that the site has allowed by its
        hash."""
        kind = admit(fab.content, allowed=self._allowed)
        key = fab.hash_str if kind is Kind.ALLOWED_CODE else ""
        if key not in self._apps:
            self._apps[key] = installed_client() if kind is Kind.CONFIGURATION else shipped_client(run, fab)
        return self._apps[key]


def ask_often() -> None:
    """Make Flower ask for a message at short intervals while its SuperNode is still receiving it.

    It waits 1, 2, 4, ... 10 s: on a slow link a round would lose seconds after its last byte is there, and a long
    download would run out of tries. Asking is cheap on loopback.
    """
    run_clientapp.pull_and_inflate_object_from_tree = partial(  # type: ignore[attr-defined]  # not one of its exports
        pull_and_inflate_object_from_tree, initial_backoff=0.05, backoff_cap=0.5, max_tries_per_object=None
    )


def pull(client: RuntimeHttpClient) -> Input:
    """The task's message, as soon as the SuperNode has received all of it."""
    try:
        return pull_task_input(client)
    except (ObjectPullError, RuntimeError) as error:  # the second: none of it is there
        raise GoneError from error


def installed_client() -> AnyClientApp:
    """The client that this site installed."""
    from client.deployed import app

    return app


def shipped_client(run: Run, fab: Fab) -> AnyClientApp:
    """The ClientApp inside an allowed bundle."""
    install_from_fab(fab.content, skip_prompt=True)
    load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    return load(run.fab_id, run.fab_version, fab.hash_str)


def require_policy(settings: ClientSettings) -> None:
    """A policy that cannot be read ends the executor, which the agent's /healthz shows; it would fail every task."""
    from client.deployed import policy_of

    try:
        policy_of(settings)
    except SettingsError as error:
        log.error("the policy cannot be read: no task is accepted", extra={"why": str(error)})
        raise SystemExit(1) from None


def main() -> None:
    """`python -m client.flower.executor ADDRESS`, started by the agent with FEDLORA_SITE set."""
    parser = argparse.ArgumentParser(description="Answer a SuperNode's tasks in one process that stays warm.")
    parser.add_argument("address", help="host:port of the SuperNode's Runtime API")
    address = parser.parse_args().address
    log_json_lines()
    end_where_a_thread_cannot_begin()
    settings = load_client(Path(os.environ["FEDLORA_SITE"]))
    stay_offline(settings)
    with without_collecting():  # what is imported is part of what the bound leaves room for, and of the start
        installed_client()
    require_policy(settings)
    limit_memory(settings.limits)
    ask_often()
    executor = Executor(settings, address)
    log.info("ready", extra={"pid": os.getpid()})
    executor.run()


if __name__ == "__main__":
    main()

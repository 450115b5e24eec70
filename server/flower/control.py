"""Flower's Control API on this coordinator's loopback port: one client that stays connected, a few milliseconds a call.

Flower's own command line speaks the same API, at two CPU seconds a call for its imports. The client is a PRIVATE module
of flwr 1.39 (`flwr.supercore.control`), imported here and nowhere else; tests/deploy/test_control.py fails if it
changes.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
import weakref
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.error.base import ApiErrorCode
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from server.flower.admitted import as_pem
from server.settings import ServerSettings

GONE = ("unregistered", "deleted")


class ControlError(RuntimeError):
    """The Control API refused, or did not answer."""

    def __init__(self, text: str, *, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        """Flower's number for a refusal, where it gives one."""


class UnreachableError(ControlError):
    """There was no answer: the SuperLink is down, starting, or stuck."""


@dataclass(frozen=True)
class Node:
    """A key that the SuperLink accepts."""

    key: bytes
    """As `key_bytes` writes it."""
    status: str
    """registered (never seen), online, offline."""


class Control:
    """A client of this coordinator's SuperLink; may be used from several threads, one call at a time.

    Errors: ControlError for whatever Flower says or does not say within `patience.control_s`.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._client: ControlHttpClient | None = None
        self._lock = threading.Lock()
        self.asked_at: float | None = None
        """When the call that is still without an answer was made, by the monotonic clock."""
        self.failures = 0
        """Calls that brought no answer, or a refusal: a damaged database is behind some of them."""

    def register(self, public_key: str) -> int:
        """Let the holder of this key (OpenSSH text) connect; returns its node id."""
        request = RegisterNodeRequest(public_key=key_bytes(public_key))
        return int(self._call("RegisterNode", request).node_id)

    def unregister(self, node: int) -> None:
        """Cut a node off, at once; its key is forgotten."""
        self._call("UnregisterNode", UnregisterNodeRequest(node_id=node))

    def nodes(self) -> dict[int, Node]:
        """Every registered node by its id; Flower goes on listing those that it has let go, this does not."""
        listed = self._call("ListNodes", ListNodesRequest()).nodes_info
        return {node.node_id: Node(node.public_key, node.status) for node in listed if node.status not in GONE}

    def submit(self, bundle: Path) -> str:
        """Start a run; returns Flower's run id."""
        from flwr.cli.build import build_fab_from_disk  # with Flower's whole command line

        content = build_fab_from_disk(bundle)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        answer = self._call("StartRun", StartRunRequest(fab=fab_to_proto(fab)))
        if not answer.HasField("run_id"):
            raise ControlError("StartRun: Flower did not accept the bundle; see logs/superlink.log.")
        return str(answer.run_id)

    def status(self, flower_run: str) -> str:
        """pending, starting, running, finished:completed, finished:failed, ...; unknown after its database was lost."""
        try:
            runs = self._call("ListRuns", ListRunsRequest(run_id=int(flower_run))).run_dict
        except ControlError as error:
            if error.code == ApiErrorCode.RUN_ID_NOT_FOUND:
                return "unknown"
            raise
        for run in runs.values():
            status = run.status
            return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)
        return "unknown"

    def stop(self, flower_run: str) -> None:
        """Stop a run's ServerApp, if it is not over; a ClientApp that is at work finishes its message."""
        try:
            self._call("StopRun", StopRunRequest(run_id=int(flower_run)))
        except ControlError as error:
            if error.code not in (ApiErrorCode.RUN_ID_NOT_FOUND, ApiErrorCode.RUN_ALREADY_FINISHED):
                raise

    def runs(self) -> dict[str, str]:
        """Every run that the SuperLink knows, and the bundle that it was started with."""
        found = self._call("ListRuns", ListRunsRequest()).run_dict
        return {str(number): run.fab_id for number, run in found.items()}

    def ping(self) -> None:
        """ControlError unless the SuperLink answers a question that its database must be asked for."""
        self._call("ListRuns", ListRunsRequest(limit=1))

    def close(self) -> None:
        """Drop the connection; the next call makes another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _call(self, method: str, request: Any) -> Any:
        try:
            return self._ask(method, request)
        except ControlError:
            self.failures += 1
            raise

    def _ask(self, method: str, request: Any) -> Any:
        with self._lock:
            self.asked_at = time.monotonic()
            try:
                return getattr(self._connected(), method)(request)
            except httpx.HTTPStatusError as error:
                said = FlowerError.from_json(error.response.text)
                if said is None:
                    raise ControlError(f"{method}: HTTP {error.response.status_code} of the SuperLink.") from None
                raise ControlError(f"{method}: [code: {said.code}] {said.message}", code=said.code) from None
            except (httpx.HTTPError, OSError, ValueError) as error:
                self.close()
                raise UnreachableError(f"{method}: {type(error).__name__}: {error}") from None
            except SystemExit as error:  # Flower's way to say that the two versions do not fit
                raise ControlError(f"{method}: the SuperLink runs another version of Flower ({error}).") from None
            finally:
                self.asked_at = None

    def _connected(self) -> ControlHttpClient:
        if self._client is None:
            self._client = ControlHttpClient(
                f"https://{self._settings.control}",
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
                verify=ssl.create_default_context(cafile=str(self._settings.pki / "ca.crt")),
                timeout=self._settings.patience.control_s,
            )
            weakref.finalize(self, self._client.close)  # whoever forgets this object forgets the connection with it
        return self._client


@lru_cache(maxsize=4096)
def key_bytes(public_key: str) -> bytes:
    """A public key in OpenSSH's text, as Flower stores it (PEM)."""
    return as_pem(public_key)

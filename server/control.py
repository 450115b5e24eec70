"""Flower's Control API through its own command line, which is public and stable; JSON in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from fedlora.deployment import command, flower_environment
from server.settings import ServerSettings

TIMEOUT_S = 120.0
UNKNOWN_RUN = "Run ID not found"  # flwr 1.39, code 16
GONE = ("unregistered", "deleted")


class ControlError(RuntimeError):
    """The Control API refused, or cannot be reached."""


class Control:
    """`flwr` against this coordinator's loopback port."""

    def __init__(self, settings: ServerSettings) -> None:
        self._home = settings.home("control")
        self._environment = {**os.environ, **flower_environment(self._home)}
        config = (
            '[superlink]\ndefault = "here"\n'
            f'[superlink.here]\naddress = "{settings.control}"\nroot-certificates = "{settings.pki / "ca.crt"}"\n'
        )
        (self._home / "config.toml").write_text(config, encoding="utf-8")

    def register(self, public_key: Path) -> int:
        """Let the holder of this key connect; returns its node id."""
        return int(self._flwr("supernode", "register", str(public_key), "here")["node-id"])

    def unregister(self, node: int) -> None:
        """Cut a node off, at once; its key is forgotten."""
        self._flwr("supernode", "unregister", str(node), "here")

    def nodes(self) -> dict[int, str]:
        """Status (online, offline, ...) of every registered node; Flower goes on listing those that it has let go."""
        listed = self._flwr("supernode", "list", "here")["nodes"]
        return {int(node["node-id"]): str(node["status"]) for node in listed if node["status"] not in GONE}

    def submit(self, bundle: Path) -> str:
        """Start a run; returns Flower's run id."""
        return str(self._flwr("run", str(bundle), "here")["run-id"])

    def status(self, flower_run: str) -> str:
        """pending, starting, running, finished:completed, finished:failed, ...; unknown after its database was lost."""
        try:
            runs = self._flwr("list", "here", "--run-id", flower_run)["runs"]
        except ControlError as error:
            if UNKNOWN_RUN in str(error):
                return "unknown"
            raise
        return str(runs[0]["status"]) if runs else "unknown"

    def stop(self, flower_run: str) -> None:
        """Stop a run's ServerApp; a ClientApp that is at work finishes its message."""
        self._flwr("stop", flower_run, "here")

    def _flwr(self, *arguments: str) -> Any:
        ran = subprocess.run(
            [command("flwr"), *arguments, "--format", "json"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        start = ran.stdout.find("{")
        try:
            answer, _ = json.JSONDecoder().raw_decode(ran.stdout[start:]) if start >= 0 else ({}, 0)
        except ValueError:
            answer = {}
        if not answer.get("success"):
            why = answer.get("error-message") or (ran.stderr or ran.stdout)[-500:]
            raise ControlError(f"flwr {' '.join(arguments[:2])}: {str(why).strip()}")
        return answer

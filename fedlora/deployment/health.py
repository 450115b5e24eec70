"""Health of a long-running process over HTTP: GET /healthz on loopback, and GET /metrics for Prometheus.

/healthz answers 200 when every process does its work and what it must reach answers, else 503; with JSON either way, in
which everything else that is wrong is said too.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedlora.deployment.environment import is_ipv6
from fedlora.processes.duties import Condition
from fedlora.settings import SettingsError

Health = Callable[[], Mapping[str, Mapping[str, object]]]
AllConditions = Callable[[], Mapping[str, Condition]]
Metrics = Callable[[], bytes]
Page = Callable[[], tuple[int, str, bytes]]
"""Status, content type and body."""

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def serve_health(
    health: Health, *, port: int, conditions: AllConditions = dict, vital: Collection[str] = ()
) -> ThreadingHTTPServer:
    """Serve until the process ends; the port is on 127.0.0.1 only (0: any free one, see `.server_port`).

    `vital`: conditions without which nothing is ready; the others are only said.
    """

    def page() -> tuple[int, str, bytes]:
        parts, duties = health(), conditions()
        ready = all(part["ready"] for part in parts.values())
        ready = ready and all(name in duties and duties[name].ok for name in vital)
        said = {"ready": ready, "processes": parts, "duties": {name: asdict(duties[name]) for name in sorted(duties)}}
        return 200 if ready else 503, "application/json", json.dumps(said).encode()

    return _serve("/healthz", page, host="127.0.0.1", port=port, setting="health_port")


def serve_metrics(metrics: Metrics, *, host: str, port: int) -> ThreadingHTTPServer:
    """Serve them, unprotected, at an address that only the operator's machines should reach."""
    return _serve("/metrics", lambda: (200, PROMETHEUS, metrics()), host=host, port=port, setting="metrics_listen")


def _serve(path: str, page: Page, *, host: str, port: int, setting: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds for one request: a peer that dribbles its bytes is dropped

        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            status, kind, body = page()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log requests: probes come every few seconds."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if is_ipv6(host) else socket.AF_INET

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be served at {host}:{port}: {error.strerror}. Choose another {setting}; every coordinator "
            "and agent on a machine needs its own."
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name=path, daemon=True).start()
    return server

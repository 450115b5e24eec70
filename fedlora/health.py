"""A health endpoint on loopback: GET /healthz answers 200 when everything is ready, else 503, with JSON either way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Health = Callable[[], Mapping[str, Mapping[str, object]]]


def serve_health(health: Health, *, port: int) -> ThreadingHTTPServer:
    """Serve until the process ends; the port is on 127.0.0.1 only (0: any free one, see `.server_port`)."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds for one request: a peer that dribbles its bytes is dropped

        def do_GET(self) -> None:
            if self.path != "/healthz":
                self.send_error(404)
                return
            parts = health()
            ready = all(part["ready"] for part in parts.values())
            body = json.dumps({"ready": ready, "processes": parts}).encode()
            self.send_response(200 if ready else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A probe every few seconds is not worth a line."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server

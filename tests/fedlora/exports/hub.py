"""A hub on this machine: the requests of huggingface_hub over HTTP, answered as the hub documents them, and kept."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_test"


class Hub(ThreadingHTTPServer):
    """`repositories`: by name whether it is private, and its files. Weights go by LFS, all else inside the commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.commits = 0
        self.refuses_commits = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, *, private: bool, **files: bytes) -> None:
        self.repositories[name] = {"private": private, "files": files}


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def asked(self) -> list[str]:
        """The path's parts, written down; no part without the login."""
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.body()
            self.answer({"error": "Invalid credentials"}, 401)
            return []
        return path.strip("/").split("/")

    def do_GET(self) -> None:
        match self.asked():
            case ["api", "whoami-v2"]:
                self.answer({"type": "user", "name": "ann", "orgs": []})
            case ["api", "models", owner, name, *_]:
                found = self.server.repositories.get(f"{owner}/{name}")
                if found is None:
                    self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                    return
                siblings = [{"rfilename": file} for file in found["files"]]
                about = {"id": f"{owner}/{name}", "private": found["private"], "siblings": siblings}
                if "/tree/" in self.path:
                    tree = [
                        {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                        for path, content in found["files"].items()
                    ]
                    self.answer(tree)
                    return
                self.answer(about)

    def do_PUT(self) -> None:
        content = self.body()
        match self.asked():
            case ["lfs", oid]:
                assert hashlib.sha256(content).hexdigest() == oid
                self.server.uploads[oid] = content
                self.answer({})

    def do_POST(self) -> None:
        match self.asked():
            case ["api", "repos", "create"]:
                asked = json.loads(self.body())
                name = f"{asked['organization']}/{asked['name']}"
                if name in self.server.repositories:
                    self.answer(
                        {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409
                    )
                    return
                self.server.add(name, private=asked.get("private", asked.get("visibility") == "private"))
                self.answer({"url": f"{self.server.url}/{name}"})
            case ["api", "validate-yaml"]:
                assert json.loads(self.body())["content"].startswith("---\n")
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", "main"]:
                files = [one["path"] for one in json.loads(self.body())["files"]]
                modes = [
                    {
                        "path": path,
                        "uploadMode": "lfs" if path.endswith("safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for path in files
                ]
                self.answer({"files": modes})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = json.loads(self.body())["objects"]
                for one in objects:
                    one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
                self.answer({"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", "main"]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in self.body().splitlines()])

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        if self.server.refuses_commits:
            self.answer({"error": "storage quota"}, 403)
            return
        files = self.server.repositories[repository]["files"]
        for line in lines:
            found = line["value"]
            if line["key"] == "file":
                files[found["path"]] = base64.b64decode(found["content"])
            elif line["key"] == "lfsFile":
                files[found["path"]] = self.server.uploads[found["oid"]]
        self.server.commits += 1
        oid = f"{self.server.commits:040x}"
        self.answer({"commitUrl": f"{self.server.url}/{repository}/commit/{oid}", "commitOid": oid})


@contextmanager
def hub_here() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()

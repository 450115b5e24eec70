"""A PostgreSQL server of the tests' own, where one is installed: on loopback, in a folder of its own, no password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from client.deployment.agent import free_port
from fedlora.processes.sockets import accepts

NOBODY = 65534  # PostgreSQL refuses to be root, which tests in a container often are
MISSING = "PostgreSQL (initdb, postgres) is not installed here"


def installed() -> bool:
    return all(shutil.which(name) for name in ("initdb", "postgres"))


@dataclass
class PostgreSQL:
    """`kill` and `start` it: what it has promised to keep is there again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["postgres", "-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **as_somebody())
        give_up = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise TimeoutError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """All its processes end at once, without a checkpoint."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)

    def new_database(self) -> str:
        """URL of an empty one."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self._address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://fedlora@127.0.0.1:{self.port}/{name}"

    @property
    def _address(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=fedlora dbname=postgres"

    def _answers(self) -> bool:
        if not accepts("127.0.0.1", self.port):
            return False
        try:
            psycopg.connect(self._address).close()
        except psycopg.OperationalError:  # it is still recovering
            return False
        return True


def as_somebody() -> dict[str, int]:
    return {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running server. Not in pytest's folders, into which another user cannot look."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as temporary:
        folder = Path(temporary)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        subprocess.run(
            ["initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "fedlora", "--no-sync"],
            check=True, capture_output=True, **as_somebody(),
        )  # fmt: skip
        server = PostgreSQL(folder, free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()

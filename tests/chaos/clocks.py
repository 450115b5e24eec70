"""Wall clocks that can be set while a process runs: a preloaded library adds what a file says (`clock.c`)."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """One clock for the coordinator and one for each site, all of them right at first."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("clock faults need a C compiler (cc) for tests/chaos/clock.c: apt install gcc")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", self._library, SOURCE, "-ldl", "-lm"], check=True)

    def environment(self, name: str) -> dict[str, str]:
        """For every process of `name`, and all that they start."""
        if not self._file(name).exists():
            self._file(name).write_bytes(struct.pack("d", 0.0))
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file(name))}

    def set(self, name: str, *, ahead_s: float) -> None:
        """Its clock is this many seconds ahead from now on (behind: negative)."""
        with self._file(name).open("r+b") as file:  # in place: the running processes have it mapped
            file.write(struct.pack("d", ahead_s))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.clock"

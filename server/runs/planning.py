"""What a recipe would send, measured in a process of its own: bounded in number, in time and on Linux in memory.

A plan loads the recipe's model and packs a message, so a recipe decides what it costs; the dashboard that waits for it
must survive any. The bounds are this process's, the work is the child's.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from fedlora.config import Recipe
from fedlora.config.former import recipe_text
from fedlora.plain_yaml import shortened
from fedlora.settings import SettingsError
from fedlora.units_path import units_folder

PLAN_S = 120.0
"""Longest run time of the child, in seconds; then it is killed."""
MOST_AT_ONCE = 2
MEMORY_SHARE = 0.5
"""Share of this machine's memory that one plan may use."""
NO_MEMORY = ("MemoryError", "not enough memory", "Cannot allocate memory")
SAID_CHARS = 600
BY_HAND = "plan it at a terminal: fedlora wire plan RECIPE."

_slots = threading.BoundedSemaphore(MOST_AT_ONCE)


class PlanError(SettingsError):
    """A plan that could not be made now; nothing is said of the recipe."""


def sizes(recipe: Recipe, *, timeout_s: float = PLAN_S) -> dict[str, int]:
    """`bytes_up`, `bytes_down`, `dense_fp32` of `fedlora wire plan`; SettingsError says in words why there are none."""
    if not _slots.acquire(blocking=False):
        raise PlanError(f"{MOST_AT_ONCE} plans are being computed already; try again when one is finished.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            answer = json.loads(_planned(recipe, Path(folder), timeout_s))
        return {name: int(answer[name]) for name in ("bytes_up", "bytes_down", "dense_fp32")}
    finally:
        _slots.release()


def child_environment() -> dict[str, str]:
    """This process's own, and our packages importable."""
    python_path = os.pathsep.join([str(units_folder()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {**os.environ, "PYTHONPATH": python_path.rstrip(os.pathsep)}


def _planned(recipe: Recipe, folder: Path, timeout_s: float) -> str:
    path = folder / "recipe.yaml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-m", "fedlora", "wire", "plan", str(path), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        if hasattr(resource, "prlimit"):  # Linux's; elsewhere time alone bounds a plan
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (memory_bytes(), memory_bytes()))
        out, said = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise PlanError(f"planning took longer than {timeout_s:.0f} s and was stopped; {BY_HAND}") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode != 0:
        raise SettingsError(f"the bytes cannot be planned: {_why(child.returncode, said)}")
    return out


def memory_bytes() -> int:
    """The most that a plan may use."""
    return int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _why(status: int, said: str) -> str:
    """The reason why a child failed, without its traceback."""
    lines = said.strip().splitlines() or [""]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return shortened("\n".join(lines[lines.index(errors[0]) :]).removeprefix("error: "), SAID_CHARS)
    if status < 0 or any(words in lines[-1] for words in NO_MEMORY):
        return f"the plan needs more than the {memory_bytes() / 1e9:.1f} GB allowed here; {BY_HAND}"
    return f"{shortened(lines[-1], SAID_CHARS)} To see more, {BY_HAND}"

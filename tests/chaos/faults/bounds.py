"""Too little of something: 64 file descriptors, no more memory, a tenth of a core at the start."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

from fedlora.processes.living import Process, is_alive
from tests.chaos.limits import limited
from tests.chaos.report import Seen
from tests.chaos.scene import Scene
from tests.chaos.slowness import Slowness, cpu_s, tree

FILES, FILES_S = 64, 20.0
MEMORY_S = 25.0
SHORT = (
    b"MemoryError",
    b"can't allocate",
    b"can't start new thread",
    b"Cannot allocate",
    b"out-of-memory",
    b"bad_alloc",
)
SLOW_SHARE, SLOW_S = 0.1, 30.0


def few_files_at_site(scene: Scene) -> Seen:
    """The whole agent, and an executor that has to start with them."""
    return few_files(scene, scene.target, "executor")


def few_files_at_coordinator(scene: Scene) -> Seen:
    """The whole coordinator, and a SuperLink that has to start with them."""
    return few_files(scene, "server", "superlink")


def few_files(scene: Scene, name: str, child: str) -> Seen:
    root, most = scene.deployment.processes[name].pid, 0
    with limited(lambda: tree([root]), resource.RLIMIT_NOFILE, FILES) as in_force:
        scene.end(scene.child(name, child), signal.SIGKILL)
        give_up = time.monotonic() + FILES_S
        while time.monotonic() < give_up:
            most = max([most, *map(open_files, tree([root]))])
            time.sleep(0.5)
        parts, was_in_force = scene.deployment.health(name), in_force()
    ready = sum(bool(part["ready"]) for part in parts.values())
    return Seen(f"at most {most} of {FILES} open; {ready} of {len(parts)} processes ready after {FILES_S:.0f} s",
                was_in_force)  # fmt: skip


def open_files(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def no_memory_for_executor(scene: Scene) -> Seen:
    process = scene.child(scene.target, "executor")
    return no_memory(scene, process, scene.deployment.folder / scene.target / "logs" / "executor.log")


def no_memory_for_serverapp(scene: Scene) -> Seen:
    return no_memory(scene, scene.serverapp(), scene.deployment.settings.folder / "logs" / "executor.log")


def no_memory_for_superlink(scene: Scene) -> Seen:
    process = scene.child("server", "superlink")
    return no_memory(scene, process, scene.deployment.settings.folder / "logs" / "superlink.log")


def no_memory(scene: Scene, process: Process, log: Path) -> Seen:
    """The process can take no memory beyond what it has (RLIMIT_DATA), until it dies or for a while."""
    began, begin = time.monotonic(), log.stat().st_size if log.exists() else 0
    with limited(lambda: [process.pid], resource.RLIMIT_DATA, 4096) as in_force:
        give_up, was_in_force = began + MEMORY_S, in_force()
        while is_alive(process) and time.monotonic() < give_up:
            time.sleep(0.5)
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read()
    said = [word.decode() for word in SHORT if word in text]
    fate = (
        f"ended after {time.monotonic() - began:.0f} s" if not is_alive(process) else f"lived on for {MEMORY_S:.0f} s"
    )
    return Seen(f"{fate}; its log: {', '.join(said) or 'nothing of it'}", was_in_force)


def slow_start_of_site(scene: Scene) -> Seen:
    return slow_start(scene, scene.target)


def slow_start_of_coordinator(scene: Scene) -> Seen:
    return slow_start(scene, "server")


def slow_start(scene: Scene, name: str) -> Seen:
    """Killed, and started on a machine that is so busy that the imports alone take minutes."""
    scene.deployment.kill(name)
    scene.deployment.start(name)
    root, began = scene.deployment.processes[name].pid, time.monotonic()
    with Slowness(lambda: [root], share=SLOW_SHARE, holds=scene.holds):
        time.sleep(SLOW_S)
        used_s = sum(cpu_s(tree([root])).values())
    return Seen(f"{used_s:.1f} s of a core in the first {time.monotonic() - began:.0f} s", used_s < SLOW_S / 4)

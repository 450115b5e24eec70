"""What else goes wrong: a bit of the checkpoint, the network of a site, a site's membership."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from client.deployment.enroll import accept, ask_with_new_key
from fedlora.processes.living import is_alive
from server.trust.provision import approve, read_registry, revoke
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

CUT_S = 10.0


def damage_checkpoint(scene: Scene) -> Seen:
    """One bit of the newest checkpoint turns while the ServerApp is stopped, which then dies."""
    process, path, aside = scene.serverapp(), scene.run / "checkpoint.safetensors", "checkpoint.damaged.safetensors"
    with scene.holds.stopped(process.pid):
        with path.open("r+b") as file:
            file.seek(-200, os.SEEK_END)
            turned = file.read(1)[0] ^ 1
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([turned]))
        damaged = path.read_bytes()
        os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    found = scene.wait_for(lambda: content(scene.run / aside) == damaged, look_s=0.1)
    said = f"set aside {time.monotonic() - began:.0f} s later" if found else "not set aside"
    return Seen(said, not is_alive(process))


def content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def cut_link(scene: Scene) -> Seen:
    """Without a network at the slow site."""
    pairs = scene.link.cut()
    time.sleep(CUT_S)
    scene.link.heal()
    return Seen(f"{pairs} connections dropped, none let in for {CUT_S:.0f} s", pairs > 0)


def revoke_site(scene: Scene) -> Seen:
    """The site is cut off in the middle of the run; then it enrols again with a new key."""
    settings, folder, began = scene.deployment.settings, scene.deployment.folder / scene.target, time.monotonic()
    revoke(settings, scene.target)
    gone = scene.wait_for(lambda: read_registry(settings).sites[scene.target].cut_off == (), look_s=0.1)
    said = f"cut off after {time.monotonic() - began:.1f} s" if gone else "not cut off"
    time.sleep(5)
    accept(folder, approve(settings, ask_with_new_key(folder, site=scene.target)))
    scene.deployment.kill(scene.target)
    scene.deployment.start(scene.target)
    return Seen(said, gone)

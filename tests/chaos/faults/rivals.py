"""A second process where there may be one only: two coordinators on a folder, two agents, two answers."""

from __future__ import annotations

import os
import subprocess
import sys

from fedlora.deployment.environment import QUIET, flower_environment
from fedlora.units_path import units_folder
from simulations.deployment import MODEST
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

UNANSWERED_S = 120.0
"""The executor that it stops may hold a task: no other comes before its heartbeat has run out."""


def second_coordinator(scene: Scene) -> Seen:
    return second(scene, "server", "server")


def second_agent(scene: Scene) -> Seen:
    return second(scene, scene.target, "client")


def second(scene: Scene, name: str, unit: str) -> Seen:
    """Started on the same folder, as an administrator does who forgot the first; it must refuse, and say why."""
    config, first = scene.deployment.folder / name / f"{unit}.yaml", scene.deployment.processes[name].pid
    ended = subprocess.run(
        [sys.executable, "-m", "fedlora", unit, "up", "--config", str(config)],
        env={**os.environ, **QUIET, **MODEST, "PYTHONPATH": str(units_folder()), **scene.deployment.environment(name)},
        capture_output=True,
        text=True,
        timeout=UNANSWERED_S,
    )
    output = " ".join((ended.stdout + ended.stderr).split())
    named = "is in use by" in output and f"process {first}," in output
    said = output[output.find("is in use by") :] if named else output[-100:]
    return Seen(f"status {ended.returncode}: {said}", ended.returncode != 0 and named)


def answer_twice(scene: Scene) -> Seen:
    """For a while the site's executor is one that sends every answer twice."""
    executor = scene.child(scene.target, "executor")
    folder = scene.deployment.folder / scene.target
    address = open(f"/proc/{executor.pid}/cmdline", "rb").read().split(b"\0")[-2].decode()  # noqa: SIM115, PTH123
    extra = {"FEDLORA_SITE": str(folder / "client.yaml"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **flower_environment(folder / "flower" / "twice", extra)}
    path = folder / "logs" / "twice.log"
    with scene.holds.stopped(executor.pid), path.open("ab") as log:
        before = path.read_bytes().count(b"answered twice")
        twice = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.answer_twice", address], env=environment, stdout=log, stderr=log
        )

        def answered() -> int:
            return path.read_bytes().count(b"answered twice") - before

        happened = scene.wait_for(lambda: answered() >= 1, look_s=0.05, at_least_s=UNANSWERED_S)
        twice.kill()
        twice.wait()
    refused = path.read_bytes().count(b"refused by the SuperNode")
    return Seen(f"{answered()} answers sent twice; {refused} refused by the SuperNode", happened)

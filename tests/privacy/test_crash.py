"""kill -9 anywhere in a private run: the ledger never shows less than was spent, and released bytes never change.

A child process runs two rounds at a site as a client does and "sends" each answer. It is killed by SIGKILL either at a
chosen durable instruction (a write is then left half done) or after a random time. An independent witness file, synced
before every access to a training example, says what was really touched.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.round import answer
from client.site import Site
from fedlora.data.examples import Examples
from fedlora.files import write_atomically
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.signing import load_or_create_key, public_text
from tests.privacy.rounds import Coordinator, coordinator, site
from tests.token_examples import token_ids

ROUNDS = 2
PRIVACY = {"noise_multiplier": 1.0}


class Countdown:
    """Kills this process at the n-th instruction that matters; only counts when n is None."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.passed = 0

    def reached(self) -> bool:
        self.passed += 1
        return self.passed == self.at


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class World:
    """One site on disk, and what outlives every crash beside it."""

    folder: Path
    server: Coordinator

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    @property
    def sent(self) -> Path:
        return self.folder / "sent"

    def site(self) -> Site:
        return site(self.folder / "site")


def run_rounds(world: World, run: str, countdown: Countdown) -> None:
    """What the client process does: answer every round of the run, and send each answer."""
    here = world.site()
    instrument(world, run, countdown, own={id(ids) for ids in token_ids(here.data.train)})
    world.sent.mkdir(exist_ok=True)
    for number in range(1, ROUNDS + 1):
        asked, state = world.server.ask(number, run=run, rounds=1000, privacy=PRIVACY)
        world.witness.with_name("round").write_text(str(number))
        report, blob = answer(asked, state, here)
        assert report.outcome == "trained", report.code
        digest = hashlib.sha256(blob).hexdigest()
        write_atomically(world.sent / f"{run}-{number}-{os.getpid()}", digest.encode())
        if countdown.reached():
            die()


def instrument(world: World, run: str, countdown: Countdown, *, own: set[int]) -> None:
    """Count, and perhaps die at, every write, sync and rename, every access to examples and every private step.

    The witness sees the site's `own` examples only: what a rehearsal invents is nobody's.
    """

    def before(function: Callable, also: Callable[..., None] = lambda *args: None) -> Callable:
        def wrapped(*args, **kwargs):
            if countdown.reached():
                also(*args)
                die()
            return function(*args, **kwargs)

        return wrapped

    real_write, real_fsync, real_batch = os.write, os.fsync, Examples.batch

    def half(descriptor, data):
        real_write(descriptor, data[: len(data) // 2])

    def touch(self, *args, **kwargs):
        if not own & {id(ids) for ids in token_ids(self)}:
            return real_batch(self, *args, **kwargs)
        number = world.witness.with_name("round").read_text()
        with world.witness.open("a") as file:
            file.write(f"{os.getpid()} {run} {number}\n")
            file.flush()
            real_fsync(file.fileno())
        return real_batch(self, *args, **kwargs)

    os.write = before(real_write, half)
    os.fsync = before(real_fsync)
    Path.replace = before(Path.replace)
    Examples.batch = before(touch)
    PrivateEngine._release = before(PrivateEngine._release)


def in_child(work: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Run `work` in a forked process; returns its exit status, -9 when it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def require_sound(world: World) -> None:
    """What must hold after every crash, before anything is repaired."""
    files = LedgerFiles(world.folder / "site", "default")
    key = load_or_create_key(world.folder / "site" / "privacy" / "key.pem")
    chain = read_ledger(files, public_key=public_text(key))
    assert chain.problem is None
    charged = Counter((e.fields["run"], e.fields["round"]) for e in chain.entries if e.kind == "charge")
    lines = world.witness.read_text().splitlines() if world.witness.exists() else []
    touched = Counter()
    for _, run, number in {tuple(line.split()) for line in lines}:
        touched[run, int(number)] += 1
    for where, times in touched.items():
        assert charged[where] >= times, (
            f"{where}: examples touched by {times} processes, charged {charged[where]} times"
        )
    released: dict[str, set[str]] = {}
    for path in world.sent.glob("*") if world.sent.exists() else ():
        if not path.name.startswith("."):
            released.setdefault(path.name.rpartition("-")[0], set()).add(path.read_text())
    assert all(len(digests) == 1 for digests in released.values()), "a finished task was answered with other bytes"


def survive(world: World, points: int) -> tuple[int, int]:
    """Crash at `points` points, alternately at an instruction and at a random time; returns how many of each."""
    counted = Countdown(None)
    started = time.monotonic()

    def dry() -> None:
        run_rounds(world, "dry", counted)
        world.folder.joinpath("count").write_text(str(counted.passed))

    assert in_child(dry) == 0
    length_s, instructions = time.monotonic() - started, int(world.folder.joinpath("count").read_text())
    chance = random.Random(0)
    order = chance.sample(range(1, instructions + 1), instructions)
    at_instruction = at_time = 0
    while at_instruction + at_time < points:
        number = at_instruction + at_time
        run = f"run-{number}"
        if number % 2 == 0:
            at = order[(number // 2) % len(order)]
            assert in_child(lambda run=run, at=at: run_rounds(world, run, Countdown(at))) == -9
            at_instruction += 1
        else:
            delay_s = chance.uniform(0, 0.9 * length_s)
            status = in_child(lambda run=run: run_rounds(world, run, Countdown(None)), kill_after_s=delay_s)
            assert status in (-9, 0)
            at_time += 1
        require_sound(world)
        assert in_child(lambda run=run: run_rounds(world, run, Countdown(None))) == 0, "the run does not resume"
        require_sound(world)
    return at_instruction, at_time


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Coordinator:
    return coordinator(tmp_path_factory.mktemp("model"))


def test_six_crashes(server, tmp_path):
    assert survive(World(tmp_path, server), 6) == (3, 3)


@pytest.mark.slow
@pytest.mark.long
def test_fifty_crashes(server, tmp_path, capsys):
    at_instruction, at_time = survive(World(tmp_path, server), 50)
    with capsys.disabled():
        print(f"\nkill -9: {at_instruction} at an instruction, {at_time} at a random time; the ledger held each time")
    assert at_instruction + at_time == 50

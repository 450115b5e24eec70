"""One run under faults, and what must hold at its end: finished, nothing acknowledged lost, no ledger under-reports.

python -m tests.chaos.drill --report docs/reliability.md                   (make chaos)
python -m tests.chaos.drill --share 0.25 --report docs/reliability.md      (make chaos-slow)
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import yaml

from fedlora.config import Recipe
from fedlora.deployment.environment import split_address
from fedlora.files import write_atomically
from server.flower.control import Control
from server.runs.submissions import completed_rounds, read_submission, resume, state_of, stop
from simulations.data.site_files import write_site_files
from simulations.deployment import Deployment, make_deployment
from tests.chaos.catalogue import FAULTS, At
from tests.chaos.clocks import Clocks
from tests.chaos.faults.stops import START_S
from tests.chaos.holds import Holds
from tests.chaos.link import Link
from tests.chaos.report import Injected, Seen, Sound, table, write_report
from tests.chaos.scene import Scene
from tests.chaos.slowness import Slowness
from tests.chaos.soundness import require_sound
from tests.chaos.watch import RoundWatch
from tests.federations import CLIENTS, save_messages, save_tiny_model, tiny_recipe

SLOW = CLIENTS[-1]
SLOW_BYTES_PER_S = 125_000  # 1 Mbit/s
MANY_ROUNDS = 10_000  # the drill itself ends the run, when its faults are over
LAST_ROUNDS = 5
POLICY = {"epsilon_budget": 1e6, "max_delta": 0.01, "min_noise_multiplier": 0.01}
HIDDEN = 256  # with rank 16 in float32 an update has about 70 kB: over half a second on the slow link


@dataclass(frozen=True)
class Pace:
    """How long the drill waits, and its run: on a machine that is held to a share of a core everything takes longer."""

    share: float | None
    """Of one core, for all processes of the deployment together; None: they have the machine."""
    pause_s: float
    moment_s: float
    everybody_s: float
    deadline_s: float
    grace_s: float
    wait_s: float

    @property
    def recipe(self) -> list[str]:
        return [
            f"rounds.deadline_s={self.deadline_s}", f"rounds.grace_s={self.grace_s}", "rounds.quorum=0.5",
            f"rounds.wait_s={self.wait_s}", "rounds.evaluate_every=5", "privacy.noise_multiplier=0.5",
            "privacy.delta=1e-5", "train.steps=2", "train.lr=0.01", "adapter.r=16", f"rounds.count={MANY_ROUNDS}",
            f"privacy.spare_rounds={MANY_ROUNDS}",
        ]  # fmt: skip


QUIET = Pace(
    share=None, pause_s=6.0, moment_s=60.0, everybody_s=300.0, deadline_s=40.0, grace_s=6.0, wait_s=120.0
)  # fmt: skip
HELD = Pace(
    share=0.25, pause_s=30.0, moment_s=180.0, everybody_s=900.0, deadline_s=120.0, grace_s=20.0, wait_s=600.0
)  # fmt: skip


def drill(folder: Path, names: Sequence[str], *, pace: Pace = QUIET, for_s: float = 3600.0) -> Sound:
    """A private run on four sites, one of them behind a slow link, while the named faults happen in turn.

    After `for_s` no other fault begins; those that did are accounted for all the same.
    """
    deployment, recipe, clocks = prepare(folder, pace)
    link = Link(split_address(deployment.settings.address), bytes_per_s=SLOW_BYTES_PER_S)
    config = folder / SLOW / "client.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "coordinator": link.address}))
    holds = Holds()
    try:
        with deployment:
            deployment.start_all()
            for name in ("server", *CLIENTS):
                deployment.wait_ready(name, timeout_s=300)
            with held(deployment, holds, pace):
                run = deployment.submit(recipe, name="chaos")
                began = time.monotonic()
                wait_until(lambda: completed_rounds(run) > 0, until=began + pace.everybody_s, run=run)
                with RoundWatch(run) as watch:
                    scenes = {
                        site: Scene(deployment, run, link, clocks, holds, site, SLOW, pace.moment_s)
                        for site in CLIENTS[:-1]
                    }
                    injected = inject_all(scenes, names, watch, pause_s=pace.pause_s, began=began, for_s=for_s)
                    over = time.monotonic()
                    everybody = over + pace.everybody_s
                    wait_until(lambda: watch.all_trained(CLIENTS, since=over), until=everybody, run=run)
                    finish(deployment, recipe, run, patience_s=pace.everybody_s)
                    deployment.wait_run(run, timeout_s=pace.everybody_s)
            return require_sound(deployment, run, watch.timed(injected), read_submission(run).attempts)
    finally:
        link.stop()


def held(deployment: Deployment, holds: Holds, pace: Pace) -> Slowness | nullcontext[None]:
    """The coordinator, the agents and all that descend from them on their share; not the drill, link or second."""
    if pace.share is None:
        return nullcontext()
    roots = deployment.processes
    return Slowness(lambda: [process.pid for process in [*roots.values()]], share=pace.share, holds=holds)


def prepare(folder: Path, pace: Pace) -> tuple[Deployment, Recipe, Clocks]:
    """Model, data, keys, clocks; nothing is started."""
    model = save_tiny_model(folder / "model", hidden=HIDDEN)
    recipe = tiny_recipe(model, save_messages(folder / "messages.csv"), *pace.recipe)
    write_site_files(recipe, folder / "data")
    deployment = make_deployment(
        folder, sites=CLIENTS, data=folder / "data", labels=("bad", "good"), policy=POLICY,
        server={"patience": {"start_s": START_S}},
    )  # fmt: skip
    clocks = Clocks(folder / "clocks")
    deployment.environment = clocks.environment
    return deployment, recipe, clocks


def inject_all(
    scenes: Mapping[str, Scene], names: Sequence[str], watch: RoundWatch, *, pause_s: float, began: float, for_s: float
) -> list[Injected]:
    """One after the other, sites in turn; one that lasts (`Fault.beside`) goes on beside those that follow."""
    injected: list[Future[Injected]] = []
    beside: tuple[str, Future[Injected]] | None = None
    sites = cycle(scenes)
    with ThreadPoolExecutor(1) as background, ThreadPoolExecutor(1) as foreground:
        for name in names:
            if time.monotonic() - began > for_s:
                break
            site = next(sites)
            if beside is not None and not beside[1].done():
                if FAULTS[name].beside:
                    beside[1].result()
                elif site == beside[0]:
                    site = next(sites)
            pool = background if FAULTS[name].beside else foreground
            done = pool.submit(inject, scenes[site], name, watch, pause_s=pause_s, began=began)
            injected.append(done)
            if FAULTS[name].beside:
                beside = site, done
            else:
                done.result()
    return [future.result() for future in injected]


def inject(scene: Scene, name: str, watch: RoundWatch, *, pause_s: float, began: float) -> Injected:
    """Do it, then wait for a round that began after it, but not longer than three pauses: faults may overlap."""
    fault, before, start = FAULTS[name], completed_rounds(scene.run), time.monotonic()
    try:
        seen = fault.act(scene)
    except Exception as error:  # it is counted as one that did not happen, and the drill fails for it in the end
        traceback.print_exc()
        seen = Seen(f"{type(error).__name__}: {error}", happened=False)
    over = time.monotonic()
    site = {At.COORDINATOR: None, At.SLOW_SITE: scene.slow, At.SITE: scene.target}[fault.at]
    while time.monotonic() < over + 3 * pause_s and watch.rounds_since(over) == 0:
        time.sleep(0.2)
    where = site or "the coordinator"
    print(f"{over - began:5.0f} s: {name} ({where}) after round {before}, in {over - start:.0f} s: {seen}", flush=True)
    time.sleep(pause_s / 4)
    return Injected(name, site, before, start, over, seen)


def finish(deployment: Deployment, recipe: Recipe, run: Path, *, patience_s: float) -> None:
    """Stop the run as an operator would, let it have a few rounds more, and go on with it."""
    control = Control(deployment.settings)
    stop(run, control)
    wait_until(lambda: deployment.serverapp_pid(run) is None, until=time.monotonic() + patience_s, run=run)
    count = completed_rounds(run) + LAST_ROUNDS
    shorter = recipe.model_copy(update={"rounds": recipe.rounds.model_copy(update={"count": count})})
    text = yaml.safe_dump(shorter.model_dump(mode="json"), sort_keys=False)
    write_atomically(run / "recipe.yaml", text.encode())
    resume(run)


def wait_until(condition: Callable[[], bool], *, until: float, run: Path) -> None:
    """TimeoutError with the end of the run's log when it does not come true."""
    while not condition():
        if time.monotonic() > until:
            log = run / "run.log"
            raise TimeoutError(f"the run is {state_of(run)}:\n{log.read_text()[-3000:] if log.exists() else 'no log'}")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=drill.__doc__)
    parser.add_argument("--share", type=float, help="of one core, for the whole deployment")
    parser.add_argument("--minutes", type=float, default=120.0, help="begin no fault after so long")
    parser.add_argument("--report", type=Path, help="write the table into this document, between its two marks")
    parser.add_argument("--only", nargs="*", help="faults by a part of their names; all when not given")
    parser.add_argument("--keep", type=Path, help="keep the deployment in this new folder")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that nothing that was started stays behind
    names = [name for name in FAULTS if given.only is None or any(part in name for part in given.only)]
    pace = QUIET if given.share is None else replace(HELD, share=given.share)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        started = time.monotonic()
        sound = drill(given.keep or Path(temporary), names, pace=pace, for_s=60 * given.minutes)
        text = table(sound, seconds=time.monotonic() - started)
    print(text)
    if given.report is not None:
        write_report(given.report, text, written_by="make chaos" if pace is QUIET else "make chaos-slow")
    if sound.happened < len(names):
        sys.exit(f"{sound.happened} of {len(names)} faults happened")


if __name__ == "__main__":
    main()

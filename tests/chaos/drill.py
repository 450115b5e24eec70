"""One run under faults, and what must hold at its end: finished, nothing acknowledged lost, no ledger under-reports.

python -m tests.chaos.drill --faults 32 --report docs/reliability.md       (make chaos)
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from fedlora.config import Recipe
from fedlora.deployment import split_address
from fedlora.files import write_atomically
from server.control import Control
from server.submissions import completed_rounds, read_submission, resume, state_of, stop
from simulations.deployment import Deployment, make_deployment
from simulations.site_files import write_site_files
from tests.chaos.clocks import Clocks
from tests.chaos.faults import AT_SERVER, AT_SLOW, FAULTS
from tests.chaos.link import Link
from tests.chaos.report import Injected, Sound, table, write_report
from tests.chaos.scene import Scene
from tests.chaos.soundness import require_sound
from tests.chaos.watch import RoundWatch
from tests.federations import CLIENTS, save_messages, save_tiny_model, tiny_recipe

SLOW = CLIENTS[-1]
SLOW_BYTES_PER_S = 125_000  # 1 Mbit/s
MANY_ROUNDS = 10_000  # the drill itself ends the run, when its faults are over
LAST_ROUNDS = 5
EVERYBODY_S = 300.0
LAST_ROUNDS_S = 300.0
POLICY = {"largest_epsilon": 1e6, "largest_delta": 0.01, "smallest_noise_multiplier": 0.01}
HIDDEN = 256  # with rank 16 in float32 an update has about 70 kB: over half a second on the slow link
RECIPE = [
    "rounds.deadline_s=40", "rounds.grace_s=6", "rounds.quorum=0.5", "rounds.wait_s=120", "rounds.evaluate_every=5",
    "privacy.noise_multiplier=0.5", "privacy.delta=1e-5", "train.steps=2", "train.lr=0.01", "adapter.r=16",
    f"rounds.count={MANY_ROUNDS}", f"privacy.spare_rounds={MANY_ROUNDS}",
]  # fmt: skip


def drill(folder: Path, names: Sequence[str], *, pause_s: float, timeout_s: float) -> Sound:
    """A private run on four sites, one of them behind a slow link, while the named faults happen in turn."""
    deployment, recipe, clocks = prepare(folder)
    link = Link(split_address(deployment.settings.address), bytes_per_s=SLOW_BYTES_PER_S)
    config = folder / SLOW / "client.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "coordinator": link.address}))
    give_up = time.monotonic() + timeout_s
    try:
        with deployment:
            deployment.start_all()
            for name in ("server", *CLIENTS):
                deployment.wait_ready(name, timeout_s=300)
            run = deployment.submit(recipe, name="chaos")
            wait_until(lambda: completed_rounds(run) > 0, until=give_up, run=run)
            with RoundWatch(run) as watch:
                scenes = (
                    Scene(deployment, run, link, clocks, target=CLIENTS[number % (len(CLIENTS) - 1)], slow=SLOW)
                    for number in range(len(names))
                )
                injected = [
                    inject(scene, name, watch, pause_s=pause_s, until=give_up)
                    for scene, name in zip(scenes, names, strict=True)
                ]
                over = time.monotonic()
                wait_until(lambda: watch.all_trained(CLIENTS, since=over), until=over + EVERYBODY_S, run=run)
                finish(deployment, recipe, run)
                deployment.wait_run(run, timeout_s=LAST_ROUNDS_S)
            return require_sound(deployment, run, watch.timed(injected), read_submission(run).attempts)
    finally:
        link.stop()


def prepare(folder: Path) -> tuple[Deployment, Recipe, Clocks]:
    """Model, data, keys, clocks; nothing is started."""
    model = save_tiny_model(folder / "model", hidden=HIDDEN)
    recipe = tiny_recipe(model, save_messages(folder / "messages.csv"), *RECIPE)
    write_site_files(recipe, folder / "data")
    deployment = make_deployment(folder, sites=CLIENTS, data=folder / "data", labels=("bad", "good"), policy=POLICY)
    clocks = Clocks(folder / "clocks")
    deployment.environment = clocks.environment
    return deployment, recipe, clocks


def inject(scene: Scene, name: str, watch: RoundWatch, *, pause_s: float, until: float) -> Injected:
    """Do it, then wait for a round that began after it, but not longer than five pauses: faults may overlap."""
    before, began = completed_rounds(scene.run), time.monotonic()
    hit = FAULTS[name](scene)
    over = time.monotonic()
    site = None if name in AT_SERVER else SLOW if name in AT_SLOW else scene.target
    print(f"{name} ({site or 'coordinator'}) after round {before}{'' if hit else ', not at its moment'}", flush=True)
    limit = min(until, over + 5 * pause_s)
    while time.monotonic() < limit and watch.rounds_since(over) == 0:
        time.sleep(0.2)
    time.sleep(pause_s / 4)
    return Injected(name, site, before, began, over, hit=hit)


def finish(deployment: Deployment, recipe: Recipe, run: Path) -> None:
    """Stop the run as an operator would, let it have a few rounds more, and go on with it."""
    control = Control(deployment.settings)
    stop(run, control)
    wait_until(lambda: deployment.serverapp_pid(run) is None, until=time.monotonic() + 120, run=run)
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
    parser.add_argument("--faults", type=int, default=32)
    parser.add_argument("--pause", type=float, default=8.0)
    parser.add_argument("--timeout", type=float, default=1800.0)
    parser.add_argument("--report", type=Path, help="write the table into this document, between its two marks")
    parser.add_argument("--only", help="one fault, by a part of its name")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that nothing that was started stays behind
    known = [name for name in FAULTS if given.only is None or given.only in name]
    names = [name for _ in range(given.faults // len(known) + 1) for name in known][: given.faults]
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        started = time.monotonic()
        sound = drill(Path(temporary), names, pause_s=given.pause, timeout_s=given.timeout)
        text = table(sound, seconds=time.monotonic() - started)
    print(text)
    if given.report is not None:
        write_report(given.report, text)


if __name__ == "__main__":
    main()

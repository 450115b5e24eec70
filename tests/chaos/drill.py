"""One run under faults, and what must hold at its end: finished, nothing acknowledged lost, no ledger under-reports.

python -m tests.chaos.drill --faults 30       (make chaos)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from fedlora.deployment import split_address
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from server.submissions import completed_rounds, read_submission, state_of
from simulations.deployment import Deployment, make_deployment
from simulations.site_files import write_site_files
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.link import Link
from tests.federations import CLIENTS, save_messages, save_tiny_model, tiny_recipe

SLOW_BYTES_PER_S = 125_000  # 1 Mbit/s
POLICY = {"largest_epsilon": 1e6, "largest_delta": 0.01, "smallest_noise_multiplier": 0.01}
RECIPE = [
    "rounds.deadline_s=40", "rounds.grace_s=3", "rounds.quorum=0.25", "rounds.wait_s=120", "rounds.evaluate_every=5",
    "privacy.noise_multiplier=0.5", "privacy.delta=1e-5", "train.steps=2", "wire.codec=int8",
]  # fmt: skip


@dataclass(frozen=True)
class Injected:
    """One fault: when, to whom, and how long until a round was completed after it."""

    fault: str
    target: str
    after_round: int
    recovered_s: float | None


def drill(folder: Path, names: Sequence[str], *, rounds: int, pause_s: float, timeout_s: float) -> list[Injected]:
    """Run `rounds` rounds on four sites, one of them behind a slow link, while the named faults happen in turn."""
    recipe = tiny_recipe(
        save_tiny_model(folder / "model"), save_messages(folder / "messages.csv"), *RECIPE, f"rounds.count={rounds}"
    )
    write_site_files(recipe, folder / "data")
    deployment = make_deployment(folder, sites=CLIENTS, data=folder / "data", labels=("bad", "good"), policy=POLICY)
    slow = CLIENTS[-1]
    link = Link(split_address(deployment.settings.address), bytes_per_s=SLOW_BYTES_PER_S)
    config = folder / slow / "client.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "coordinator": link.address}))
    injected: list[Injected] = []
    try:
        with deployment:
            deployment.start_all()
            for name in ("server", *CLIENTS):
                deployment.wait_ready(name, timeout_s=180)
            run = deployment.submit(recipe, name="chaos")
            give_up = time.monotonic() + timeout_s
            wait_past(deployment, run, 0, until=give_up)
            for number, name in enumerate(names):
                if state_of(run) == "finished":
                    break
                scene = Scene(deployment, run, link, target=CLIENTS[number % (len(CLIENTS) - 1)], slow=slow)
                injected.append(inject(scene, name, pause_s=pause_s, until=give_up))
            deployment.wait_run(run, timeout_s=max(1.0, give_up - time.monotonic()))
            require_sound(deployment, run, rounds=rounds)
    finally:
        link.stop()
    return injected


def inject(scene: Scene, name: str, *, pause_s: float, until: float) -> Injected:
    """Do it, then wait for a round that began after it, but not longer than twice the pause: faults may overlap."""
    before = completed_rounds(scene.run)
    started = time.monotonic()
    FAULTS[name](scene)
    limit = min(until, time.monotonic() + 2 * pause_s)
    recovered = None
    while time.monotonic() < limit:
        if completed_rounds(scene.run) > before:
            recovered = time.monotonic() - started
            break
        time.sleep(0.3)
    time.sleep(pause_s / 4)
    return Injected(name, scene.target, before, recovered)


def wait_past(deployment: Deployment, run: Path, round_number: int, *, until: float) -> None:
    """Until more rounds than that are complete."""
    while completed_rounds(run) <= round_number:
        if time.monotonic() > until:
            log = run / "run.log"
            raise TimeoutError(f"no round was completed: {log.read_text()[-2000:] if log.exists() else 'no log'}")
        time.sleep(0.3)


def require_sound(deployment: Deployment, run: Path, *, rounds: int) -> None:
    """AssertionError with what is wrong."""
    records = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == list(range(1, rounds + 1)), "a round is missing or doubled"
    for name in deployment.sites:
        chain = read_ledger(LedgerFiles(deployment.folder / name / "state", "default"), public_key=None)
        assert chain.problem is None, f"{name}: {chain.problem}"
        charged = {entry.fields["round"] for entry in chain.entries if entry.kind == "charge"}
        acknowledged = {
            record["round"]
            for record in records
            for client in record["clients"]
            if client["client"] == name and client["outcome"] == "trained"
        }
        assert acknowledged <= charged, f"{name} trained in rounds {sorted(acknowledged - charged)} without a charge"
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert adapter, "the adapter is empty"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapter.values()), "the adapter is not finite"


def table(injected: Sequence[Injected], run_attempts: int, seconds: float) -> str:
    """For docs/reliability.md."""
    lines = ["| fault | times | next round after (s), median | worst |", "|---|---|---|---|"]
    for name in FAULTS:
        mine = [item for item in injected if item.fault == name]
        times = sorted(item.recovered_s for item in mine if item.recovered_s is not None)
        if not mine:
            continue
        median = f"{times[len(times) // 2]:.0f}" if times else "-"
        worst = f"{times[-1]:.0f}" if len(times) == len(mine) else "after the next fault"
        lines.append(f"| {name} | {len(mine)} | {median} | {worst} |")
    lines.append(f"\n{len(injected)} faults in {seconds:.0f} s; the run was submitted {run_attempts} times.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=drill.__doc__)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--pause", type=float, default=10.0)
    parser.add_argument("--timeout", type=float, default=1800.0)
    given = parser.parse_args()
    names = [name for _ in range(given.faults // len(FAULTS) + 1) for name in FAULTS][: given.faults]
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder, started = Path(temporary), time.monotonic()
        injected = drill(folder, names, rounds=given.rounds, pause_s=given.pause, timeout_s=given.timeout)
        attempts = read_submission(folder / "server" / "runs" / "chaos").attempts
        print(table(injected, attempts, time.monotonic() - started))
        if len(injected) < given.faults:
            raise SystemExit(f"the run was over after {len(injected)} of {given.faults} faults: raise --rounds")


if __name__ == "__main__":
    main()

"""How long a coordinator takes to register its sites with a SuperLink that has lost its database.

python -m tests.bench.bench_registration --sites 50

A real SuperLink and a real `server up`; the clock starts when the SuperLink is ready and stops when sites.json says of
every site that it is registered. What one site costs is multiplied for a thousand.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path

from fedlora.deployment.enrolment import make_request, new_node_key
from server.trust.provision import approve, read_registry
from simulations.deployment import Deployment, make_deployment

MANY = 1000
POLL_S = 0.02


def nodes_of(deployment: Deployment) -> set[int | None]:
    return {site.node for site in read_registry(deployment.settings).sites.values()}


def registered_after(deployment: Deployment, *, old: set[int | None]) -> float:
    """Seconds from now until every site has a node, and none of the old ones."""
    began = time.monotonic()
    while (nodes := nodes_of(deployment)) & old or None in nodes:
        time.sleep(POLL_S)
    return time.monotonic() - began


def measure(folder: Path, sites: int) -> dict[str, float]:
    """Seconds to register all sites at the first start, and again after the database is lost."""
    deployment = make_deployment(folder, sites=(), data=folder / "data", labels=("a", "b"))
    for number in range(sites):
        approve(deployment.settings, make_request(f"site-{number}", new_node_key()))
    with deployment:
        deployment.start("server")
        deployment.wait_ready("server")
        first = registered_after(deployment, old=set())
        before = nodes_of(deployment)
        deployment.processes["server"].send_signal(signal.SIGTERM)
        deployment.processes["server"].wait()
        for path in deployment.settings.folder.glob("superlink.db*"):
            path.unlink()
        deployment.start("server")
        deployment.wait_ready("server")
        again = registered_after(deployment, old=before)
    return {"sites": sites, "first_s": first, "after_loss_s": again, "thousand_s": again / sites * MANY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=50)
    with tempfile.TemporaryDirectory(prefix="registration-") as folder:
        print(json.dumps(measure(Path(folder), parser.parse_args().sites), indent=2))


if __name__ == "__main__":
    main()

"""What one row of a site's file moves: the clipped sum of what it trains on, with the row and without it.

    file ─► rows ─► split ─► tokens ─► one step at q = 1 with next to no noise ─► ‖S(D) - S(D - i)‖ / C

Nothing is random in it, so that nothing has to be tested: above C the claim is false, whatever σ is. It finds what
canaries cannot, because they are put in after it: a split in which one row moves others, masks or padding that depend on
who else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from client.deployed import policy_of, site_of
from client.round import receive, train
from client.settings import ClientSettings
from fedlora.privacy.guard import Grant
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.released import watching
from fedlora.resident import resident
from fedlora.rows import Row
from fedlora.task import Task
from simulations.audit_site import make_site, write_rows

TOLERANCE = 1e-4
"""Of C: what float32 may round."""

HARDLY_ANY_NOISE = 1e-9


@dataclass(frozen=True)
class Moved:
    """How far single rows moved the sum of the rest."""

    rows: int
    """In the file."""
    distances: Sequence[float]
    """In C, one for each row that was taken out."""

    @property
    def most(self) -> float:
        return max(self.distances)

    @property
    def refuted(self) -> bool:
        return self.most > 1 + TOLERANCE


def moved_by_rows(task: Task, blob: bytes, rows: Sequence[Row], *, take_out: int, folder: Path) -> Moved:
    """Take `take_out` rows, evenly spread over the file, out of it one by one."""
    site = make_site(folder, "rows", rows, test=None)
    places = [number * len(rows) // take_out for number in range(take_out)]
    whole = clipped_sum(task, blob, site)
    distances = []
    for place in places:
        write_rows(site.data.train, [row for number, row in enumerate(rows) if number != place])
        distances.append(float((whole - clipped_sum(task, blob, site)).norm()) / task.privacy.clip)
    return Moved(len(rows), distances)


def clipped_sum(task: Task, blob: bytes, settings: ClientSettings) -> Tensor:
    """The sum over every example that the site would train on, as its own training step makes it."""
    site, home = site_of(settings, policy_of(settings), task), resident(task.model, task.adapter, task.labels)
    receive(task, blob, site, home)
    mechanism = Mechanism(
        rate=1.0, noise_multiplier=HARDLY_ANY_NOISE, clip=task.privacy.clip, steps=1, expected_batch=1.0
    )
    sums: list[Tensor] = []
    with watching(lambda released: sums.append(torch.cat([g.double().flatten().cpu() for g in released.values()]))):
        train(task, site, home, Grant("audit", mechanism))
    return sums[0]

"""The effect of one row of a site's file on the clipped sum, measured with the row and without it.

    file ─► rows ─► split ─► tokens ─► one step at q = 1 with next to no noise ─► ‖S(D) - S(D - i)‖ / C

Nothing is random in it, so that nothing has to be tested: above C the claim is false, whatever σ is. It finds what
canaries cannot, because they are put in after it: a split in which one row moves others, masks or padding that depend
on who else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from client.deployed import respond
from client.settings import ClientSettings
from fedlora.data.row import Row
from fedlora.privacy.guard import Grant, Guard
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.released import watching
from fedlora.protocol.task import Task
from fedlora.settings import SettingsError
from simulations.data.site_files import write_rows

TOLERANCE = 1e-4
"""Of C: what float32 may round."""

HARDLY_ANY_NOISE = 1e-9
BATCH = 1000.0
"""A denominator that keeps the step small, whatever the sum."""


@dataclass(frozen=True)
class Moved:
    """Distances by which single rows moved the sum of the others."""

    rows: int
    """Number of rows in the file."""
    distances: Sequence[float]
    """In C, one for each row that was taken out."""

    @property
    def most(self) -> float:
        return max(self.distances)

    @property
    def refuted(self) -> bool:
        return self.most > 1 + TOLERANCE


def moved_by_rows(task: Task, blob: bytes, rows: Sequence[Row], *, take_out: int, site: ClientSettings) -> Moved:
    """Take `take_out` of the site's rows, evenly spread over its file, out of it one by one."""
    sums = [clipped_sum(task, blob, site, number=0, of=take_out)]
    for number in range(take_out):
        place = number * len(rows) // take_out
        write_rows(site.data.train, [*rows[:place], *rows[place + 1 :]])
        sums.append(clipped_sum(task, blob, site, number=number + 1, of=take_out))
    return Moved(len(rows), [float((sums[0] - other).norm()) / task.privacy.clip for other in sums[1:]])


def clipped_sum(task: Task, blob: bytes, site: ClientSettings, *, number: int, of: int) -> Tensor:
    """The sum over every example that the site would train on, as its answer to a task is made."""
    # A task that is answered already is not trained again: each file is asked in another coordinator's name. What is
    # charged does not matter here, and must not depend on the size of the file.
    charged = task.privacy.model_copy(update={"epsilon": None, "adapt": None, "noise_multiplier": 1.0})
    changed = {"coordinator": f"rows-{number}", "rounds": max(task.rounds, of + 1), "privacy": charged}
    asked = task.model_copy(update=changed)
    everybody = Mechanism(
        rate=1.0, noise_multiplier=HARDLY_ANY_NOISE, clip=task.privacy.clip, steps=1, expected_batch=BATCH
    )
    sums: list[Tensor] = []
    with (
        watching(lambda released: sums.append(BATCH * torch.cat([g.double().flatten() for g in released.values()]))),
        granting(everybody),
    ):
        report, _ = respond(asked, blob, site)
    if len(sums) != 1:
        raise SettingsError(f"the site {report.outcome} a task on some of its rows: {report.code}; try more --rows.")
    return sums[0].cpu()


@contextmanager
def granting(mechanism: Mechanism) -> Iterator[None]:
    """Guards check and charge as they do, and then grant this mechanism."""
    before = Guard.authorise

    def authorise(self: Guard, *task: Any, **examples: Any) -> Grant:
        return replace(before(self, *task, **examples), mechanism=mechanism)

    Guard.authorise = authorise  # type: ignore[method-assign]  # the audit's own, for as long as it looks
    try:
        yield
    finally:
        Guard.authorise = before  # type: ignore[method-assign]  # as it was

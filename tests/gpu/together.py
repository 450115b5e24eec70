"""Clients trained in one pass against one by one, at the shapes of 135M: wall time of a client's step."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from client.site import Parts, Site
from client.state.base_cache import CachedBase
from client.trainer import serve, take_steps
from client.work import Start, Work
from fedlora.adapters import read
from fedlora.config import TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.wire import WireSettings
from fedlora.devices.memory import make_room
from fedlora.privacy.guard import Grant, Guard
from fedlora.privacy.policy import SIMULATION
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from tests.gpu.shapes import SHAPES, Shape, examples_of, home_of, settings_of
from tests.gpu.timed import Box, seconds_of

CLIENTS = {"full": 64, "tiny": 3}
BATCHES = {"full": (1, 4, 16), "tiny": (1, 2)}
STEPS = 2


def together(device: str, size: str, box: Box) -> Iterator[dict[str, Any]]:
    try:
        train_group = importlib.import_module("client.together.trainer").train_group
    except ModuleNotFoundError:
        yield {"what": "together", "left out": "this tree trains clients one by one"}
        return
    shape = SHAPES[size][-1]
    on = settings_of(shape, device, "bfloat16")
    home = home_of(shape, on)
    for batch in BATCHES[size]:
        told = {"what": "together", "shape": shape.name, "clients": CLIENTS[size], "batch": batch}
        if not box.has(20.0):
            yield told | {"left out": "no time"}
            continue
        group = works(home, shape, on, CLIENTS[size], batch)
        few = group[: max(2, CLIENTS[size] // 8)]  # one by one each takes as long as the other
        alone = seconds_of(lambda few=few: one_by_one(few), device, warm=1, most=2) / len(few)
        joined = seconds_of(lambda group=group: train_group(group), device, warm=1, most=2) / len(group)
        yield told | {"alone_ms": 1e3 * alone / STEPS, "together_ms": 1e3 * joined / STEPS, "times": alone / joined}
    del home
    make_room()


def one_by_one(group: Sequence[Work]) -> None:
    for work in group:
        serve(work.home, work.task.run, work.start)
        take_steps(work)


def works(home: Any, shape: Shape, on: Any, clients: int, batch: int) -> list[Work]:
    """As if admitted: nothing of a site's disk is needed without privacy."""
    train = TrainSettings(optimizer="adamw", lr=1e-4, batch_size=batch, steps=STEPS)
    task = Task(
        run="gpu", round=1, rounds=1, seed=0, strategy="fedit", trains=(Factor.A, Factor.B), model=on,
        fingerprint="", labels=(), adapter=shape.adapter, train=train, privacy=PrivacySettings(), wire=WireSettings(),
    )  # fmt: skip
    adapter = read(home.model)
    start = Start(adapter, adapter, CachedBase("gpu", 0, {}))
    found = []
    for number in range(clients):
        rows = examples_of(shape, 2 * batch, seed=number)
        site = Site(f"c{number}", Parts(rows, rows.take([0])), Path("unused"), policy=SIMULATION)
        found.append(Work(task, task, site, cast(Guard, None), Grant("gpu"), home, start, site.data))
    return found

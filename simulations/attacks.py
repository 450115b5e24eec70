"""Simulated attackers: a way to test what `robust` does about each attack, and what it does not.

An attacker is an honest client with another ClientApp around it: it trains like all others (on reversed classes, for
most attacks), then sends something else, in a message that is valid in every respect. It knows only what a site knows:
what it received, and what its accomplices would send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from client.app import client_app
from client.messages import read_task, reply_message
from client.round import answer, pack
from client.site import Parts, Site
from client.state.base_cache import CachedBase
from client.state.state_cache import StateCache
from client.work import Start
from fedlora.adapters import shaped
from fedlora.config import Recipe
from fedlora.config.clients.attack import FLIPS_LABELS, AttackSettings
from fedlora.data.examples import Examples
from fedlora.protocol.task import Report, Task
from fedlora.randomness import chooser
from fedlora.tasks.base import IGNORED
from fedlora.updates import Adapter, Factor, Tensors, subtract
from fedlora.wire.message import Expected, Schema, decode, state_hash
from fedlora.wire.state import decode_state


@dataclass
class Attackers:
    """The attackers of a run, and what accomplices have agreed on (`colluding`: the first one's update of a round)."""

    settings: AttackSettings
    names: frozenset[str]
    claimed_examples: int
    template: Adapter
    agreed: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def attackers(recipe: Recipe, names: Sequence[str], template: Adapter) -> Attackers | None:
    """The run's attackers, drawn from its seed; None if there are none."""
    if recipe.attack is None:
        return None
    drawn = chooser(recipe.seed, "attackers").sample(sorted(names), recipe.attack.clients)
    return Attackers(recipe.attack, frozenset(drawn), recipe.rounds.max_examples, template)


def corrupted(site: Site, hostile: Attackers | None, *, classes: int) -> Site:
    """An attacker's site trains on reversed classes where its attack wants it: y becomes classes - 1 - y."""
    if hostile is None or site.name not in hostile.names or hostile.settings.kind not in FLIPS_LABELS:
        return site
    assert isinstance(site.data, Parts)
    return replace(site, data=replace(site.data, train=reversed_classes(site.data.train, classes)))


def reversed_classes(examples: Examples, classes: int) -> Examples:
    """What has no loss keeps having none."""
    labels = [item["labels"] for item in examples.items]
    reversed_ = [found.where(found == IGNORED, classes - 1 - found) for found in labels]
    return replace(examples, items=[{**i, "labels": r} for i, r in zip(examples.items, reversed_, strict=True)])


def app_of(find_site: Callable[[Context], Site], hostile: Attackers | None) -> ClientApp:
    """The client's own ClientApp, or one in which some lie."""
    return client_app(find_site) if hostile is None else hostile_app(find_site, hostile)


def hostile_app(find_site: Callable[[Context], Site], hostile: Attackers) -> ClientApp:
    """A ClientApp that answers as the client's own does, but for attackers."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = find_site(context)
        task, blob = read_task(message)
        report, update = answer(task, blob, site)
        if site.name in hostile.names and update is not None:
            report, update = attacked(hostile, task, blob, site, (report, update))
        return reply_message(message, report, update)

    return app


def attacked(
    hostile: Attackers, task: Task, blob: bytes, site: Site, honest: tuple[Report, bytes]
) -> tuple[Report, bytes]:
    """The answer that is sent instead of the honest one."""
    report, update = honest
    template = shaped(hostile.template, task.adapter, task.ranks)
    if task.wire.download == "changes":
        received = StateCache(site.folder, task.run).advanced(task, blob, template)
    else:
        received, _ = decode_state(blob, template, run=task.run, round_number=task.round)
    sent = received.tensors(task.trains)
    expected = Expected("update", task.run, task.round, state_hash(received.tensors()))
    delta = decode(update, Schema.of(sent), expected).tensors
    if hostile.settings.kind == "overclaim":
        report = report.model_copy(update={"examples": hostile.claimed_examples})
    lie = falsified(delta, received, hostile, task.round)
    openly = task.model_copy(update={"wire": task.wire.model_copy(update={"error_feedback": False})})
    start = Start(received, received, CachedBase(task.run, task.base_version, {}), state_hash(received.tensors()))
    packed, packing = pack(openly, lie, start, site, private=report.receipt is not None)
    return report.model_copy(update={"packing": packing}), packed


def falsified(delta: dict[str, Tensor], received: Adapter, hostile: Attackers, number: int) -> dict[str, Tensor]:
    """The update that the attacker sends."""
    settings = hostile.settings
    match settings.kind:
        case "sign-flip":
            return times(delta, -1.0)
        case "scaled":
            return times(delta, settings.scale)
        case "colluding":
            return hostile.agreed.setdefault(number, delta)
        case "regauge":
            return regauged(delta, received, settings.scale)
    return delta


def times(delta: Tensors, factor: float) -> dict[str, Tensor]:
    return {name: tensor * factor for name, tensor in delta.items()}


def regauged(delta: Tensors, received: Adapter, scale: float) -> dict[str, Tensor]:
    """The delta to (B·scale, A/scale) of what training gave: every product B A is as it was."""
    own = received.tensors()
    factors = {Factor.B.value: scale, Factor.A.value: 1.0 / scale}
    trained = {name: own[name] + tensor for name, tensor in delta.items()}
    lie = {name: tensor * factors.get(name.rpartition(".")[2], 1.0) for name, tensor in trained.items()}
    return subtract(lie, {name: own[name].to(torch.float32) for name in lie})

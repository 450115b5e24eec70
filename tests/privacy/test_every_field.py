"""Every field of everything that a coordinator sends, tried against a strict policy: a new field is tried by itself.

What is granted, whatever was asked: σ, C, δ and ε within the policy's bounds, noise from the operating system, one
charge that says what is run, and an answer that tells nothing but the update.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from client.round import answer
from fedlora.config.train import OPTIMIZERS
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.noise import SecureSource
from fedlora.privacy.policy import DatasetPolicy, Policy
from fedlora.privacy.receipt import verified
from fedlora.privacy.refusal import Refusal
from fedlora.protocol.task import Task
from fedlora.tasks.registry import TASKS
from tests.privacy.rounds import Coordinator, coordinator, site
from tests.privacy.tasks import STATE, guard, task

STRICT = Policy(
    epsilon_budget=3.0,
    min_noise_multiplier=0.6,
    max_clip=1.0,
    datasets={"tickets": DatasetPolicy(epsilon_per_period=2.0)},
)
NUMBERS = (0, -1, 1, 2, 7, 1e-300, 1e-9, 0.3, 0.999, 1e9, 1e300, float("inf"), float("nan"))
TEXTS = ("", "x", "../../etc/passwd", "local", "all-linear", "others", "os:system", *OPTIMIZERS, *TASKS)
OTHERS = (None, True, False, [], {}, ["B"], ["A", "B", "R", "head"], {"x": 1}, [0])


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, annotation) of every field, those of optional models inside included."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in parts(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        yield (*path, name), field.annotation
        for kind in inner:
            yield from leaves(kind, (*path, name))


def parts(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for arg in get_args(annotation) for inner in parts(arg)]
    return [annotation]


def values_for(annotation: Any) -> Iterator[Any]:
    """Its own choices, and everything else that JSON can hold: what is of another type is refused at the door."""
    for kind in parts(annotation):
        if get_origin(kind) is Literal:
            yield from get_args(kind)
    yield from (*NUMBERS, *TEXTS, *OTHERS)


def with_value(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    head, *rest = path
    inner = with_value(values.get(head) or {}, tuple(rest), value) if rest else value
    return {**values, head: inner}


def variants(base: Task, path: tuple[str, ...], annotation: Any) -> Iterator[Task]:
    """The task with every value of one field that a site would parse."""
    plain = base.model_dump(mode="json")
    if path[:2] == ("privacy", "client_level"):
        plain["privacy"]["client_level"] = {"clip": 1.0, "noise_multiplier": 1.0}
    if path[:2] == ("privacy", "adapt"):
        plain["privacy"]["adapt"] = {"below": 0.5}
    if path[:2] == ("adapter", "public"):
        plain["adapter"]["public"] = {"source": "airlines"}
    for value in values_for(annotation):
        try:
            yield Task.model_validate(with_value(plain, path, value))
        except ValidationError:
            continue


FIELDS = dict(leaves(Task))


def require_within(folder: Path, asked: Task, policy: Policy, dataset: str) -> int:
    """What the ledger says was granted, against the policy; returns the number of charges."""
    charges = [
        entry.fields
        for entry in read_ledger(LedgerFiles(folder, dataset), public_key=None).entries
        if entry.kind == "charge"
    ]
    bounds = policy.dataset(dataset)
    for charge in charges:
        assert charge["noise_multiplier"] >= policy.min_noise_multiplier
        assert 0 < charge["clip"] <= policy.max_clip
        assert 0 < charge["delta"] <= bounds.max_delta
        assert charge["secure"] is True
    spent = [Event(rate=c["rate"], noise_multiplier=c["noise_multiplier"], steps=c["steps"]) for c in charges]
    assert epsilon(spent, delta=bounds.max_delta) <= min(bounds.epsilon_budget, bounds.epsilon_per_period or 1e9)
    return len(charges)


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_no_value_of_any_field_gets_more_than_the_policy_allows(tmp_path, path):
    tried = 0
    for number, asked in enumerate(variants(task(), path, FIELDS[path])):
        folder, tried = tmp_path / str(number), tried + 1
        try:
            grant = guard(folder, STRICT).authorise(asked, STATE, examples=2400)
        except Refusal:
            assert require_within(folder, asked, STRICT, "tickets") == 0, "a refused task is charged"
            continue
        assert require_within(folder, asked, STRICT, "tickets") == 1
        assert grant.mechanism is not None
        assert isinstance(grant.source(), SecureSource)
        receipt = verified(grant.receipt)
        charged = (receipt.rate, receipt.noise_multiplier, receipt.clip, receipt.steps)
        mechanism = grant.mechanism
        assert charged == (mechanism.rate, mechanism.noise_multiplier, mechanism.clip, mechanism.steps)
        assert receipt.secure
        assert not asked.privacy.report_metrics
    assert tried or path == ("adapter", "public"), "no value of this field was tried"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Coordinator:
    return coordinator(tmp_path_factory.mktemp("model"))


AT_THE_GUARD_ALONE = {("train", "steps"), ("train", "batch_size"), ("rounds",), ("round",), ("privacy", "epsilon")}
"""What is only a number of the calibration, or would train for hours where it is granted."""


@pytest.mark.parametrize("path", [path for path in FIELDS if path not in AT_THE_GUARD_ALONE], ids=".".join)
def test_whatever_is_asked_an_answer_tells_nothing_but_the_update(server, tmp_path, path):
    policy = STRICT.model_copy(update={"allow_metrics": False, "strategies": ("ffa",)})
    here = site(tmp_path, policy=policy, count=61)
    base, state = server.ask(1)
    answered = set()
    for asked in list(variants(base, path, FIELDS[path]))[:3]:
        report, _ = answer(asked, state, here)
        answered.add(report.outcome)
        assert (report.received, report.train_loss) == (None, None)
        assert report.examples in (0, 60), "the public size"
        if report.outcome == "trained":
            assert verified(report.receipt).secure
            assert {*asked.trains, *asked.keeps} <= {"B", "head"}, "what ffa trains"
        else:
            assert report.code is not None
            assert set(report.code) <= set("abcdefghijklmnopqrstuvwxyz-")
    require_within(tmp_path, base, STRICT, "default")

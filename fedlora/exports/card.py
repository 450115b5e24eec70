"""The head of an export's README.md, which the hub reads: YAML between two lines of dashes.

    the hub's fields    base, library, task, licence, language, data sets, metrics, and what the run measured
    federated, privacy  ours: how it was trained, what ε it has and what that does not cover
    gate                ours: what the publish gate looked at, and who went past it

Guarantee: what nobody knows is left out. No licence, no language and no id of a data set is guessed, and the
sites' own data are never named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlora.exports.about import About
from fedlora.exports.licences import DATA, Terms, hub_id
from fedlora.exports.made import Made, Protected
from fedlora.gate.verdict import Gate
from fedlora.plain_yaml import yaml_text

PIPELINES: Mapping[str, str] = {
    "sequence-classification": "text-classification",
    "causal-lm": "text-generation",
    "preference": "text-generation",
}
"""What the hub calls a task where it has another name for it."""

KEPT_APART = "rows that the coordinator kept apart"


def card(about: About, *, relation: str, library: str) -> str:
    """`relation`: what it is to its base, as the hub has it: adapter or finetune."""
    made, terms = about.made, about.terms
    credit = DATA.get(made.source or "") if made else None
    hub = hub_id(about.base.id)
    fields: dict[str, Any] = {
        "base_model": hub,
        "base_model_relation": relation if hub else None,
        "library_name": library,
        "pipeline_tag": PIPELINES.get(about.task, about.task),
        **licence_fields(terms),
        "language": credit.language if credit else None,
        "datasets": [credit.hub] if credit and credit.hub else None,
        "metrics": list(made.evaluation.metrics) if made and made.evaluation else None,
        "tags": [
            "lora",
            "federated-learning",
            *(["differential-privacy"] if made and made.protected else []),
            "fedlora",
        ],
        "model-index": model_index(about, made) if made and made.evaluation else None,
        "federated": federated(made) if made else None,
        "privacy": privacy(made) if made else None,
        "gate": gate(about.gate) if about.gate else None,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    return f"---\n{yaml_text(known)}---\n\n"


def licence_fields(terms: Terms | None) -> dict[str, str | None]:
    """None at all where nobody has said under which licence it is."""
    if terms is None:
        return {}
    return {"license": terms.license, "license_name": terms.name, "license_link": terms.link}


def model_index(about: About, made: Made) -> list[dict[str, Any]]:
    """What the run measured last."""
    assert made.evaluation is not None  # the only caller asks first
    credit = DATA.get(made.source or "")
    of = {"name": f"{credit.title}, {KEPT_APART}", "type": credit.hub or str(made.source)} if credit else {
        "name": f"{KEPT_APART} (not public)", "type": "private",
    }  # fmt: skip
    values = {"loss": made.evaluation.loss, **made.evaluation.metrics}
    metrics = [
        {"type": name, "value": value, "name": name.replace("_", " ").capitalize()} for name, value in values.items()
    ]
    task = {"type": PIPELINES.get(about.task, about.task)}
    return [{"name": model_name(about, made), "results": [{"task": task, "dataset": of, "metrics": metrics}]}]


def model_name(about: About, made: Made) -> str:
    """The run's, with what the base's terms want before it."""
    prefix = about.terms.prefix if about.terms else None
    return f"{prefix}-{made.name}" if prefix and not made.name.startswith(prefix) else made.name


def federated(made: Made) -> dict[str, Any]:
    return {
        "strategy": made.strategy, "rounds": made.rounds, "clients": made.clients, "bytes_up": made.bytes_up,
        "bytes_down": made.bytes_down,
    }  # fmt: skip


def privacy(made: Made) -> dict[str, Any]:
    if not made.protected:
        return {"differential_privacy": False}
    return {
        "differential_privacy": True,
        "guarantees": [guarantee(one) for one in made.protected],
        "not_covered": list(made.not_covered),
    }


def guarantee(one: Protected) -> dict[str, Any]:
    """ε rounded up: never less than it is."""
    found: dict[str, Any] = {
        "unit": one.unit,
        "adjacency": one.adjacency,
        "epsilon": None if one.epsilon is None else math.ceil(one.epsilon * 1000 - 1e-9) / 1000,
        "delta": one.delta,
    }
    if one.trusts:
        found["trusts"] = one.trusts
    return found if one.is_guarantee else {**found, "is_guarantee": False}


def gate(found: Gate) -> dict[str, Any]:
    """What was looked at, and who went past what."""
    said: dict[str, Any] = {
        "passed": not found.held_by,
        "checks": {check.name: "passed" if check.passed else "held" for check in found.checks},
    }
    overrides = [one.model_dump(mode="json") for one in found.overrides]
    return {**said, "overrides": overrides} if overrides else said


def licence_said(about: About) -> str:
    """For a reader, with what has to be done before it is published."""
    terms = about.terms
    if terms is None:
        return (
            "Nobody has said under which licence its base is, so none is claimed for the adapter: find out before you "
            "publish it, and state it with `fedlora export --license`."
        )
    said = f"`{terms.license}`" + (f" ({terms.link})" if terms.link else "")
    said += ", as its base: its terms go with every copy." if terms.binding else "."
    if terms.notice:
        said += " Keep the file NOTICE beside it."
    if terms.shown:
        said += f" {terms.shown}."
    if terms.prefix:
        said += f" The name that it is published under must begin with `{terms.prefix}`."
    return said


def credits_said(about: About) -> str:
    credit = DATA.get(about.made.source or "") if about.made else None
    return "" if credit is None else f"\n\nTrained on: {credit.line}"

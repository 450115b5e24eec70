"""A report is shown, counted and stored: what could not be is no report, whatever JSON holds it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.replies.messages import BadReplyError, parse_report

HONEST = {"client": "Virgin America", "outcome": "trained", "round": 1, "examples": 10}


def test_an_honest_report_is_read():
    report = parse_report(json.dumps({**HONEST, "received": {"loss": 0.5, "accuracy": 1.0, "examples": 3}}))
    assert (report.client, report.examples) == ("Virgin America", 10)
    assert parse_report(json.dumps({**HONEST, "client": "Ångström-Krankenhaus №3"})).client == "Ångström-Krankenhaus №3"


MACHINE = {"fedlora": "0.1.0", "python": "3.11.2", "torch": "2.9.0+cpu", "flwr": "1.39.0", "device": "cpu"}


def test_what_a_site_says_of_its_machine_is_read():
    gpu = {**MACHINE, "device": "cuda:0", "accelerator": "NVIDIA H100 80GB HBM3"}
    assert parse_report(json.dumps({**HONEST, "machine": gpu})).machine.place == "cuda:0, NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("name", [*MACHINE, "accelerator"])
@pytest.mark.parametrize("lie", ["<img src=x onerror=alert(1)>", "x" * 100, "", "1\n2", "[red]1", "№ 1", 1, ["1"]])
def test_a_machine_cannot_carry_markup_or_a_flood(name, lie):
    with pytest.raises(BadReplyError, match="malformed-report"):
        parse_report(json.dumps({**HONEST, "machine": {**MACHINE, name: lie}}))


def test_a_machine_has_no_room_for_more_than_it_names():
    with pytest.raises(BadReplyError, match="malformed-report"):
        parse_report(json.dumps({**HONEST, "machine": {**MACHINE, "hostname": "ward-3"}}))


@pytest.mark.parametrize(
    "lie",
    [
        {"client": "\ud800"}, {"code": "\ud800"}, {"receipt": "\ud800"}, {"client": ""}, {"client": "x" * 201},
        {"client": "\x1b[2J"}, {"client": "a\u202eb"}, {"code": "[/b]"}, {"code": "free text"}, {"code": "x" * 65},
        {"examples": 10**30}, {"examples": -1}, {"base_version": 10**400}, {"base_version": -1}, {"seconds": -1.0},
        {"seconds": float("nan")}, {"train_loss": float("inf")},
        {"received": {"loss": 0.1, "accuracy": 1e300, "examples": 3}},
        {"received": {"loss": -1.0, "accuracy": 0.5, "examples": 3}},
        {"received": {"loss": 0.1, "accuracy": 0.5, "examples": 10**30}},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_shown_counted_or_stored_is_no_report(lie):
    with pytest.raises(BadReplyError, match="malformed-report"):
        parse_report(json.dumps({**HONEST, **lie}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


KEYS = [*HONEST, "code", "received", "seconds", "receipt", "packing", "machine"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_anything_is_a_report_that_can_be_written_down_again_or_a_bad_reply(values):
    try:
        report = parse_report(json.dumps({**HONEST, **values}))
    except BadReplyError:
        return
    assert parse_report(report.model_dump_json()) == report

"""Renamed settings: a file of the version before is read, and says which name to write."""

from __future__ import annotations

import logging
from typing import Annotated

import pytest
from pydantic import Field

from client.settings import load_client
from fedlora.privacy.policy import DatasetPolicy, Policy, load_policy
from fedlora.settings import FormerName, Settings, SettingsError, parse

CLIENT = "site: a\ncoordinator: coordinator.example:9092\ndata: {train: train.csv}\nlargest_message_mib: 7\n"


class Limits(Settings):
    max_size: Annotated[int, FormerName("largest_size")] = Field(512, ge=1)
    name: str = ""


def test_a_former_name_is_read_as_the_present_one_and_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        found = [parse(Limits, {"largest_size": 7, "name": "a"}) for _ in range(2)]
    assert found == [Limits(max_size=7, name="a")] * 2
    assert [line.getMessage() for line in caplog.records] == [
        "the setting largest_size is now called max_size; the next version will not read the former name"
    ]


def test_its_bounds_are_those_of_the_present_one():
    with pytest.raises(SettingsError, match=r"max_size must be greater than or equal to 1, got 0\."):
        parse(Limits, {"largest_size": 0})
    with pytest.raises(SettingsError, match=r"max_size must be a valid integer"):
        parse(Limits, {"largest_size": True})


def test_both_names_at_once_are_refused():
    with pytest.raises(SettingsError, match="largest_size is the former name of max_size; remove largest_size"):
        parse(Limits, {"largest_size": 7, "max_size": 8})


def test_a_client_yaml_of_the_version_before_is_read(tmp_path):
    (tmp_path / "client.yaml").write_text(CLIENT)
    assert load_client(tmp_path / "client.yaml").max_message_mib == 7


def test_a_policy_yaml_of_the_version_before_bounds_as_it_did(tmp_path):
    (tmp_path / "policy.yaml").write_text(
        "largest_epsilon: 6\nlargest_delta: 1e-6\nlargest_clip: 2\nsmallest_noise_multiplier: 0.5\n"
        "datasets: {tickets: {largest_epsilon: 3, largest_delta: 1e-7}}\n"
    )
    assert load_policy(tmp_path / "policy.yaml") == Policy(
        epsilon_budget=6.0, max_delta=1e-6, max_clip=2.0, min_noise_multiplier=0.5,
        datasets={"tickets": DatasetPolicy(epsilon_budget=3.0, max_delta=1e-7)},
    )  # fmt: skip

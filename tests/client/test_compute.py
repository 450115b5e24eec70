"""A site computes as its own client.yaml says, and what it has charged and answered is known whatever that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import fedlora.models.base as base_module
from client.deployed import introduced, respond
from client.settings import ClientSettings, load_client
from fedlora.data.examples import Examples
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.protocol.task import Task
from tests.attack.scene import charges, messages, run_of, site_with, small_recipe

OTHER = {"device": "cpu:0", "dtype": "bfloat16", "microbatch": 3}
"""Another name of the only device that every machine has: it is seen in what is computed on it."""


@pytest.fixture
def asked(tmp_path) -> tuple[Task, bytes, ClientSettings]:
    """A private task, and the site that is to do it, whose client.yaml says nothing of its machine."""
    site = site_with(tmp_path / "site", messages(40))
    return *run_of(small_recipe(tmp_path), site, tmp_path).task_for_a_new_site(), site


def written(site: ClientSettings, **more: object) -> ClientSettings:
    """client.yaml with more in it, read anew."""
    path = site.folder / "client.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **more}))
    return load_client(path)


@pytest.fixture
def batches(monkeypatch) -> list[tuple[int, str]]:
    """How many examples every batch had from now on, and where it went."""
    seen: list[tuple[int, str]] = []
    real = Examples.batch

    def batch(self, indices, **options):
        seen.append((len(indices), str(options.get("device", "cpu"))))
        return real(self, indices, **options)

    monkeypatch.setattr(Examples, "batch", batch)
    return seen


def test_device_dtype_and_microbatch_of_client_yaml_are_used(asked, batches, monkeypatch):
    task, blob, site = asked
    computed, real = set(), base_module.torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: computed.add(str(options.get("dtype"))) or real(
        *given, **options))  # fmt: skip
    site = written(site, **OTHER)
    report, _ = respond(task, blob, site)
    assert report.outcome == "trained"
    assert {device for _, device in batches} == {"cpu:0"}
    assert max(size for size, _ in batches) == 3, "the rehearsal's triple, and pieces of batches of 8"
    assert "torch.bfloat16" in computed
    assert introduced(report, task, site).machine.device == "cpu:0"


def test_a_retried_task_is_known_on_another_device_and_in_other_pieces(asked):
    task, blob, site = asked
    first, again = respond(task, blob, site), respond(task, blob, written(site, **OTHER))
    assert first[1] == again[1]
    assert charges(site) == 1


def test_what_a_site_uses_changes_no_charge(tmp_path):
    def charged(name: str, **own: object) -> dict[str, object]:
        site = written(site_with(tmp_path / name, messages(40)), **own)
        task, blob = run_of(recipe, site, tmp_path / f"{name}-run").task_for_a_new_site()
        respond(task, blob, site)
        (entry,) = (e for e in inspect_ledger(LedgerFiles(site.state, "default")).entries if e.kind == "charge")
        return dict(entry.fields)

    recipe = small_recipe(tmp_path)
    plain, other = charged("plain"), charged("other", **OTHER)
    differ = {key for key in plain | other if plain.get(key) != other.get(key)}
    assert differ <= {"run", "task", "time"}, "two runs, one after the other"
    assert "noise_multiplier" in plain


def test_what_a_site_tells_the_planner_has_its_pieces_in_it(asked):
    *_, site = asked
    assert site.told_resources is None
    assert written(site, microbatch=3).told_resources is None, "nothing is told unless it is written"
    assert written(site, resources={"memory_mb": 9}).told_resources.microbatch == 3
    assert written(site, resources={"memory_mb": 9, "microbatch": 5}).told_resources.microbatch == 5


@pytest.mark.parametrize(("name", "value"), [("microbatch", 0), ("dtype", "float64")])
def test_what_no_machine_computes_by_is_refused_by_name(asked, name, value):
    with pytest.raises(ValueError, match=name):
        written(asked[2], **{name: value})


def test_a_recipe_that_still_says_where_holds_at_a_site_that_says_nothing(tmp_path, batches):
    site = site_with(tmp_path / "site", messages(40))
    recipe = small_recipe(tmp_path, "model.device=cpu:0", "train.microbatch_size=3")
    task, blob = run_of(recipe, site, Path(tmp_path)).task_for_a_new_site()
    del batches[:]
    assert respond(task, blob, site)[0].outcome == "trained"
    assert {device for _, device in batches} == {"cpu:0"}
    assert max(size for size, _ in batches) == 3

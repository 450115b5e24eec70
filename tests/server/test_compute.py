"""A coordinator evaluates as its own server.yaml says."""

from __future__ import annotations

import pytest
import yaml

import server.deployed as deployed_module
from fedlora.data.examples import Examples
from server.deployed import run
from server.runs.preflight import look_before
from server.runs.submissions import submit
from server.settings import load_server
from server.trust.provision import initialise
from strategies.base import State


class SeenError(Exception):
    """What the coordinator was to begin with is known."""


def test_device_dtype_and_microbatch_of_server_yaml_are_used(recipe, messages, tmp_path, monkeypatch):
    path = initialise(tmp_path / "server", name="net", address="x:1").folder / "server.yaml"
    own = {"device": "cpu:0", "dtype": "bfloat16", "microbatch": 3, "held_out": {"file": messages}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **own}))
    settings, needed, batches = load_server(path), [], []
    folder = submit(settings, recipe("data.labels=[bad, good]"), name="one")

    def coordinate(grid, recipe, needs, *, resume):
        needed.append((recipe, needs))
        raise SeenError

    monkeypatch.setattr(deployed_module, "coordinate", coordinate)
    with pytest.raises(SeenError):
        run(None, settings, folder)
    ((kept, needs),) = needed
    assert (kept.model.device, kept.model.dtype, kept.train.microbatch_size) == ("cpu", "float32", None)
    assert (needs.compute.device, needs.compute.dtype, needs.compute.microbatch) == ("cpu:0", "bfloat16", 3)
    real = Examples.batch
    monkeypatch.setattr(Examples, "batch", lambda self, indices, **options: batches.append(
        (len(indices), options["device"])) or real(self, indices, **options))  # fmt: skip
    assert needs.evaluate(State(needs.loaded_model.template)).examples == 160
    assert max(batches) == (3, "cpu:0")


def test_who_submits_a_recipe_with_a_former_setting_hears_where_it_belongs(recipe, tmp_path):
    settings = initialise(tmp_path / "server", name="net", address="x:1")
    said = look_before(settings, recipe("data.labels=[bad, good]", "model.device=cpu:0"))
    assert any(line.startswith("note      model.device=cpu:0") for line in said)

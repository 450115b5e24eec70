"""The base is loaded once a process: for every client, every round, and the rounds' evaluation."""

from __future__ import annotations

from fedlora.models import loaded_model as module
from tests.federations import run


def test_a_federation_loads_its_base_once_whatever_the_number_of_clients_and_rounds(recipe, tmp_path, monkeypatch):
    loaded, real = [], module.load_base
    monkeypatch.setattr(module, "load_base", lambda *given: loaded.append(given) or real(*given))
    module.loaded_model.cache_clear()
    summary = run(recipe("rounds.count=2"), tmp_path / "run")
    run(recipe("rounds.count=1"), tmp_path / "next")
    assert summary["rounds"] == 2
    assert len(loaded) == 1

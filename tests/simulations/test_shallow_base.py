"""The base of the many runs: the first layers of another, weight for weight."""

from __future__ import annotations

import pytest
import torch

from fedlora.config import ModelSettings
from fedlora.models.base import load_base, load_processor
from fedlora.settings import SettingsError
from simulations.shallow_base import save_shallow

LABELS = ("bad", "good")


def test_the_first_layers_are_those_of_the_whole_base_and_it_loads_like_any_other(tiny_model, tmp_path):
    whole = load_base(ModelSettings(id=str(tiny_model), max_tokens=16), LABELS).model
    save_shallow(str(tiny_model), tmp_path / "base", layers=1)
    settings = ModelSettings(id=str(tmp_path / "base"), max_tokens=16)
    shallow = load_base(settings, LABELS).model
    assert len(shallow.encoder.layer) == 1 < len(whole.encoder.layer)
    assert shallow.config.hidden_dropout_prob == 0.0
    weights = whole.state_dict()
    assert all(
        torch.equal(tensor, weights[name])
        for name, tensor in shallow.state_dict().items()
        if not name.startswith("head.")
    )
    assert (
        load_processor(settings)("good")["input_ids"]
        == load_processor(ModelSettings(id=str(tiny_model), max_tokens=16))("good")["input_ids"]
    )


def test_more_layers_than_there_are_is_refused(tiny_model, tmp_path):
    with pytest.raises(SettingsError, match=r"--layers 99: .* has 1 to 2 layers"):
        save_shallow(str(tiny_model), tmp_path / "base", layers=99)

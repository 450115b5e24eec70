"""What would wait for a device is read once a step or a round: tensors without values refuse every other reading."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional

from client.training import accumulate, finite
from fedlora.config import ModelSettings, TrainSettings
from fedlora.privacy import engine as engine_module
from fedlora.privacy.supported import FrozenWeightsCheck
from tests.privacy.models import classifier
from tests.privacy.test_engine import engine_of


@pytest.fixture
def on_fake_device(monkeypatch):
    monkeypatch.setattr(engine_module, "reading_waits", lambda tensor: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def fake_classifier() -> nn.Module:
    """The shapes of the model, without values."""
    with torch.utils._python_dispatch._disable_current_modes():
        model = classifier().eval()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = nn.Parameter(torch.empty(parameter.shape), requires_grad=parameter.requires_grad)
                module._parameters[name] = fake
    return model


def losses_of(model: nn.Module, batch: int) -> torch.Tensor:
    tokens, labels = torch.zeros(batch, 5, dtype=torch.long), torch.zeros(batch, dtype=torch.long)
    return functional.cross_entropy(model(tokens), labels, reduction="none")


def test_the_tensors_here_refuse_to_be_read(on_fake_device):
    with pytest.raises(DataDependentOutputException):
        bool(torch.zeros(()) > 0)


def test_a_private_microbatch_reads_nothing_of_the_device(on_fake_device):
    model = fake_classifier()
    engine = engine_of(model)
    engine._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine._backend.attach(model)
    for _ in range(2):
        engine._clip(engine._gradients(torch.arange(4), lambda indices: losses_of(model, len(indices))))
    with pytest.raises(DataDependentOutputException):
        assert engine.nonfinite_examples >= 0


class Task:
    """The loss alone."""

    def losses(self, model, batch):
        return losses_of(model, batch)


class Rows:
    task = Task()

    def batch(self, indices, *, device):
        return len(indices)


def test_a_step_without_privacy_reads_once_whether_it_is_finite(on_fake_device):
    model = fake_classifier()
    loss = accumulate(model, Rows(), range(8), TrainSettings(microbatch_size=2), on=ModelSettings())
    assert loss.dtype == torch.float64
    with pytest.raises(DataDependentOutputException):
        finite(loss, model.parameters())


def test_the_watch_over_frozen_weights_reads_once_for_all_parameters(monkeypatch):
    model, stacked, real = classifier(), [], torch.stack
    watch = FrozenWeightsCheck(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 1
    monkeypatch.setattr(torch, "stack", lambda tensors, *rest: stacked.append(len(tensors)) or real(tensors, *rest))
    watch.require_moved()
    assert stacked == [len(list(model.parameters()))]

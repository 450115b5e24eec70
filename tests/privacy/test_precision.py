"""Clipping is done in full float32, whatever precision the process was set to; and no C is too small to be measured."""

from __future__ import annotations

import pytest
import torch

from fedlora.config.adapter import FirstStepSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.privacy import engine as engine_module
from fedlora.privacy.mechanism import LEAST_CLIP
from fedlora.privacy.precision import full_float32
from tests.privacy.models import Examples, classifier
from tests.privacy.test_engine import assert_no_example_moves_the_sum_by_more, engine_of, mechanism


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request):
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


def settings_of_the_process() -> tuple[str, ...]:
    backends = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return (torch.get_float32_matmul_precision(),)
    return (backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)


def test_products_are_full_inside_and_as_before_outside(precision):
    before = settings_of_the_process()
    with full_float32():
        assert set(settings_of_the_process()) <= {"ieee", "highest"}
        assert not torch.backends.cuda.matmul.allow_tf32
    assert settings_of_the_process() == before
    assert torch.get_float32_matmul_precision() == precision
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert settings_of_the_process() == before


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has one switch")
def test_a_precision_that_was_set_backend_by_backend_is_overruled_and_comes_back():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with full_float32():
            assert settings_of_the_process() == ("ieee", "ieee")
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_norms_and_sums_are_taken_in_full_precision(precision, monkeypatch):
    seen = []
    for name in ("squares", "weighted"):
        plain = getattr(engine_module, name)
        monkeypatch.setattr(
            engine_module, name, lambda *args, plain=plain: (seen.append(settings_of_the_process()), plain(*args))[1]
        )
    model, examples = classifier(), Examples(6)
    with engine_of(model) as engine:
        engine.clipped_sum(torch.arange(6), examples.loss(model))
    assert seen
    assert set(seen[0]) <= {"ieee", "highest"}
    assert len(set(seen)) == 1


def test_the_bound_holds_at_every_precision(precision):
    assert_no_example_moves_the_sum_by_more(0.5)


def test_the_bound_holds_at_the_least_clip():
    assert_no_example_moves_the_sum_by_more(LEAST_CLIP)


@pytest.mark.parametrize("scale", [1e-10, 1e-14, 1e-18, 1e-25, 1e-38])
def test_an_example_of_tiny_gradients_moves_the_sum_by_at_most_the_least_clip(scale):
    """Squares of float32 numbers below 1e-19 are subnormal or nothing: a norm then looks small, and here it is."""
    model, examples = classifier(), Examples(3)
    loss = examples.loss(model)
    with engine_of(model, examples=3, clip=LEAST_CLIP) as engine:
        engine.rehearse(loss)
        alone = engine.clipped_sum(torch.tensor([0]), lambda indices: loss(indices) * scale)
        moved = torch.cat([total.flatten() for total in alone.values()]).norm()
    assert moved <= LEAST_CLIP * (1 + 1e-5)


def test_a_smaller_clip_is_refused_wherever_it_is_given():
    with pytest.raises(ValueError, match=r"clip must be at least 1e-12, got 1e-13.*raise privacy\.clip"):
        mechanism(clip=1e-13)
    for build in (lambda clip: PrivacySettings(epsilon=1.0, clip=clip), lambda clip: FirstStepSettings(clip=clip)):
        with pytest.raises(ValueError, match=r"greater than or equal to 0\.000000000001"):
            build(1e-13)
        assert build(LEAST_CLIP).clip == LEAST_CLIP

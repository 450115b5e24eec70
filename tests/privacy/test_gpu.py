"""The engine on CUDA: the same clipped sums as on the CPU, noise from the same stream."""

from __future__ import annotations

import pytest
import torch

from tests.privacy.models import Examples, classifier, looped_clipped_sum
from tests.privacy.test_engine import distance, engine_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("backend", ["fedlora", "opacus"])
def test_clipped_sum_on_cuda_equals_a_loop_over_examples(backend):
    examples, indices = Examples(9), torch.arange(9)
    examples.tokens_nt, examples.labels_n = examples.tokens_nt.cuda(), examples.labels_n.cuda()
    model = classifier(dtype=torch.float64).cuda()
    expected = looped_clipped_sum(model, examples.loss(model), indices, clip=0.5)
    with engine_of(model, gradients=backend) as engine:
        assert distance(engine.clipped_sum(indices, examples.loss(model)), expected) < 1e-12


@pytest.mark.parametrize("backend", ["fedlora"])
def test_a_step_under_bf16_autocast_leaves_float32_gradients_on_the_device(backend):
    examples, model = Examples(16), classifier().cuda()
    examples.tokens_nt, examples.labels_n = examples.tokens_nt.cuda(), examples.labels_n.cuda()
    plain = examples.loss(model)

    def under_autocast(indices):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return plain(indices)

    with engine_of(model, gradients=backend) as engine:
        engine.step(under_autocast)
        engine._steps = 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert {(g.dtype, g.device.type) for g in gradients} == {(torch.float32, "cuda")}

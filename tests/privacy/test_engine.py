"""The guarantees at the top of fedlora/privacy/engine.py, one test per sentence."""

from __future__ import annotations

import pytest
import torch

from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource, SeededSource, grid
from fedlora.privacy.refusal import Code, Refusal
from tests.privacy.models import Examples, classifier, looped_clipped_sum

BACKENDS = ["fedlora", "opacus"]


def mechanism(**changes) -> Mechanism:
    values = {"rate": 0.5, "noise_multiplier": 1.0, "clip": 0.5, "steps": 10, "expected_batch": 8.0}
    return Mechanism(**{**values, **changes})


def engine_of(model, examples: int = 16, *, seed: int = 0, **changes) -> PrivateEngine:
    options = {key: changes.pop(key) for key in ("microbatch", "gradients", "source") if key in changes}
    options.setdefault("source", SeededSource(seed))
    return PrivateEngine(model, mechanism(**changes), examples=examples, **options)


def distance(left, right) -> float:
    difference = torch.cat([(left[p].double() - right[p].double()).flatten() for p in left])
    return float(difference.norm() / torch.cat([t.double().flatten() for t in right.values()]).norm())


def assert_no_example_moves_the_sum_by_more(clip: float) -> None:
    examples, model = Examples(8), classifier()
    with engine_of(model, clip=clip) as engine:
        everyone = engine.clipped_sum(torch.arange(8), examples.loss(model))
        for gone in range(8):
            rest = torch.tensor([i for i in range(8) if i != gone])
            fewer = engine.clipped_sum(rest, examples.loss(model))
            moved = torch.cat([(everyone[p] - fewer[p]).flatten() for p in everyone]).norm()
            assert moved <= clip * (1 + 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trains", ["ABH", "AB", "A", "B", "R", "RH", "H"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_clipped_sum_equals_a_loop_over_examples(backend, trains, dtype, bound):
    examples, indices = Examples(9), torch.arange(9)
    model = classifier(trains=trains, dtype=dtype)
    expected = looped_clipped_sum(model, examples.loss(model), indices, clip=0.5)
    with engine_of(model, gradients=backend) as engine:
        assert distance(engine.clipped_sum(indices, examples.loss(model)), expected) < bound


@pytest.mark.parametrize("drawn", [[4], [4, 1], [4, 1, 6]])
def test_a_sum_of_few_is_that_of_a_loop_also_without_a_rehearsal(drawn):
    """Three examples are looked at for whether one moves another; of two, one is looked at twice."""
    examples, indices, model = Examples(9), torch.tensor(drawn), classifier(dtype=torch.float64)
    expected = looped_clipped_sum(model, examples.loss(model), indices, clip=0.5)
    with engine_of(model) as engine:
        assert distance(engine.clipped_sum(indices, examples.loss(model)), expected) < 1e-12


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("trains", ["ABH", "A", "B", "R"])
def test_gradient_checkpointing_of_both_kinds_changes_nothing(trains, reentrant):
    examples, indices, model = Examples(6), torch.arange(6), classifier(trains=trains, dtype=torch.float64)
    expected = looped_clipped_sum(model, examples.loss(model), indices, clip=0.5)
    model.gradient_checkpointing, model.reentrant = True, reentrant
    with engine_of(model) as engine:
        assert distance(engine.clipped_sum(indices, examples.loss(model)), expected) < 1e-12
    assert model.recomputed


def test_examples_go_one_by_one_until_it_is_known_that_none_moves_another():
    examples, model = Examples(7), classifier(dtype=torch.float64)
    loss, everyone = examples.loss(model), torch.arange(7)
    hidden = torch.tensor([float("nan"), 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    with engine_of(model, microbatch=3) as engine:
        assert [len(piece) for piece in engine.pieces(everyone, lambda i: loss(i) * hidden[i])] == [1] * 7
        assert [len(piece) for piece in engine.pieces(everyone, loss)] == [3, 3, 1]
    with engine_of(model) as engine:
        assert [len(piece) for piece in engine.pieces(everyone, loss)] == [7]


@pytest.mark.parametrize("name", ["noise_multiplier", "clip", "expected_batch"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_mechanism_without_noise_bound_or_batch_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0"):
        mechanism(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, r"rate must be in \(0, 1\], got 0"),
        ({"rate": 1.0001}, r"rate must be in \(0, 1\], got 1\.0001"),
        ({"clip": 0.99e-12}, "clip must be at least 1e-12"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
    ],
)
def test_a_mechanism_that_nothing_can_be_said_of_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mechanism(**changes)
    assert mechanism(rate=1.0, clip=1e-12, steps=1).steps == 1


def test_microbatches_change_nothing():
    examples, indices, model = Examples(7), torch.arange(7), classifier(dtype=torch.float64)
    sums = []
    for microbatch in (None, 1, 3):
        with engine_of(model, microbatch=microbatch) as engine:
            sums.append(engine.clipped_sum(indices, examples.loss(model)))
    assert distance(sums[1], sums[0]) < 1e-14
    assert distance(sums[2], sums[0]) < 1e-14


@pytest.mark.parametrize("trains", ["ABH", "A", "B", "R"])
def test_under_autocast_gradients_are_float32_and_close(trains):
    examples, indices, model = Examples(8), torch.arange(8), classifier(trains=trains)
    loss = examples.loss(model)
    expected = looped_clipped_sum(model, loss, indices, clip=0.5)

    def under_autocast(piece):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(piece)

    with engine_of(model) as engine:
        engine._backend.begin(8)
        under_autocast(indices).sum().backward()
        assert {g.dtype for g in engine._backend.end().values()} == {torch.float32}
        assert distance(engine.clipped_sum(indices, under_autocast), expected) < 0.03


@pytest.mark.parametrize("clip", [0.01, 0.5, 100.0])
def test_removing_one_example_moves_the_clipped_sum_by_at_most_clip(clip):
    assert_no_example_moves_the_sum_by_more(clip)


def test_an_example_with_a_nonfinite_gradient_moves_it_by_zero_and_is_counted():
    examples, model = Examples(6), classifier()
    loss = examples.loss(model)
    poisons = iter([float("nan"), float("inf")])

    with engine_of(model) as engine:
        without = engine.clipped_sum(torch.tensor([0, 1, 3, 4, 5]), loss)
        for poison in poisons:
            scale = torch.ones(6)
            scale[2] = poison
            poisoned = engine.clipped_sum(torch.arange(6), lambda i, scale=scale: loss(i) * scale[i])
            assert distance(poisoned, without) < 1e-6
        assert engine.nonfinite_examples == 2


def test_a_nonfinite_example_in_the_independence_check_delays_it_and_costs_nothing():
    examples, model = Examples(6), classifier(dtype=torch.float64)
    loss = examples.loss(model)
    scale = torch.tensor([float("nan"), 1, 1, 1, 1, 1], dtype=torch.float64)
    with engine_of(model) as engine:
        poisoned = engine.clipped_sum(torch.arange(6), lambda i: loss(i) * scale[i])
    with engine_of(model) as engine:
        assert distance(poisoned, engine.clipped_sum(torch.arange(1, 6), loss)) < 1e-12


def test_step_releases_sum_plus_noise_over_the_public_batch():
    """With everybody drawn (q = 1), p.grad · b is S + σ C z, to half a step of the grid; z is next in its stream."""
    examples, model, sigma, clip, batch = Examples(4), classifier(trains="ABH"), 2.0, 0.75, 10.0
    mechanism = {"rate": 1.0, "noise_multiplier": sigma, "clip": clip, "expected_batch": batch}
    with engine_of(model, 4, seed=5, **mechanism) as engine:
        clipped = engine.clipped_sum(torch.arange(4), examples.loss(model))
        engine.step(examples.loss(model))
        released = torch.cat([p.grad.double().flatten() for p in clipped]) * batch
        engine._steps = 0  # nothing was stepped: skip the check that parameters moved
    stream = SeededSource(5).fresh()
    stream.uniform(4)  # who is drawn
    noise = sigma * clip * torch.from_numpy(stream.gaussian(len(released)))
    expected = torch.cat([clipped[p].flatten() for p in clipped]) + noise
    assert float((released - expected).abs().max()) < 0.51 * grid(sigma * clip) + 1e-6 * float(expected.abs().max())


def test_an_empty_sample_is_a_noise_step_that_never_calls_the_model():
    model = classifier()

    def never(indices):
        raise AssertionError("the model was called for an empty batch")

    with engine_of(model, rate=1e-12, noise_multiplier=2.0, expected_batch=8.0) as engine:
        engine.step(never)
        values = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        engine._steps = 0
    assert float(values.std()) == pytest.approx(2.0 * 0.5 / 8.0, rel=0.15)


def test_seeded_runs_repeat_and_secure_ones_do_not():
    examples = Examples(16)

    def gradient(source):
        model = classifier()
        with engine_of(model, source=source) as engine:
            engine.step(examples.loss(model))
            engine._steps = 0
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(gradient(SeededSource(3)), gradient(SeededSource(3)))
    torch.manual_seed(3)
    first = gradient(SecureSource())
    torch.manual_seed(3)
    assert not torch.equal(first, gradient(SecureSource()))


def test_no_more_steps_than_the_mechanism_has():
    model, examples = classifier(), Examples(16)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with engine_of(model, steps=2) as engine:
        for _ in range(2):
            engine.step(examples.loss(model))
            optimizer.step()
        with pytest.raises(Refusal, match="all 2 steps") as caught:
            engine.step(examples.loss(model))
        assert caught.value.code is Code.TOO_MANY_STEPS


def test_the_model_is_restored_on_the_way_out_also_after_an_error():
    model = classifier()
    before = {name: type(module) for name, module in model.named_modules()}
    keys = list(model.state_dict())
    with pytest.raises(KeyError), engine_of(model):  # noqa: PT012 - the state inside is the point
        assert list(model.state_dict()) == keys
        raise KeyError
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not any("recorder" in vars(module) for module in model.modules())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_a_step_leaves_no_gradient_behind(backend):
    model, examples = classifier(), Examples(16)
    plain = examples.loss(model)
    calls = iter(range(100))

    def fails_later(indices):
        if next(calls) > 6:
            raise KeyError
        return plain(indices)

    with pytest.raises(KeyError), engine_of(model, rate=1.0, microbatch=2, gradients=backend) as engine:
        engine.step(fails_later)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_trains_must_move_and_what_is_frozen_must_not():
    examples = Examples(16)
    model = classifier(trains="B")
    with pytest.raises(Refusal, match=r"lora_B.*did not change"), engine_of(model) as engine:  # noqa: PT012 - two steps
        engine.step(examples.loss(model))
        engine.step(examples.loss(model))  # no optimizer step in between
    model = classifier(trains="B")
    with pytest.raises(Refusal, match=r"lora_A.*is frozen but changed"), engine_of(model) as engine:  # noqa: PT012 - two steps
        engine.step(examples.loss(model))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1)
        engine.step(examples.loss(model))


def test_a_gpu_that_has_failed_fails_the_task_and_counts_no_example():
    """Whatever fails from then on is no example's fault: rows are looked at on the host, before they are copied."""
    examples, model = Examples(4), classifier()

    def asserts(indices):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with engine_of(model, examples=4, rate=1.0) as engine:
        engine.rehearse(examples.loss(model))
        with pytest.raises(RuntimeError, match="device-side assert"):
            engine.clipped_sum(torch.arange(4), asserts)
        assert engine.nonfinite_examples == 0

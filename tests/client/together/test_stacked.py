"""Several clients' adapters on one model give each what it has alone: every task of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from client.steps.stepper import Pace, Stepper
from client.steps.turn import Turn
from client.together.group import GroupStepper
from client.together.passes import Row, passes
from fedlora.adapters import set_trainable
from fedlora.adapters.live import parameters_of
from fedlora.config import TrainSettings
from fedlora.data.examples import Examples
from fedlora.privacy.clients_engine import ClientsEngine, ClientShare
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.settings import parse
from fedlora.stacked import RowsError, Stack, UnstackableError, stacked
from fedlora.updates import Factor
from tests.fedlora.tasks.test_registry import CASES, CLIP, LONGEST, Case, ready
from tests.privacy.models import looped_clipped_sum

OWN = ([0, 1, 2], [3], [], [4, 1])
"""Whose row is whose: unequal, and one client without any."""

Values = dict[str, Tensor]


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def prepared(case: Case, dtype: torch.dtype) -> tuple[nn.Module, Examples, Mapping[str, nn.Parameter], list[Values]]:
    """A model, examples, what trains, and unlike values of it for each client."""
    model, examples = ready(case)
    model.to(dtype)
    set_trainable(model, Factor)
    live = parameters_of(model, tuple(Factor))
    draw = torch.Generator().manual_seed(3)
    values = [
        {name: p.detach() + 0.05 * torch.randn(p.shape, generator=draw).to(dtype) for name, p in live.items()}
        for _ in OWN
    ]
    return model, examples, live, values


def losses(model: nn.Module, examples: Examples, indices: Sequence[int]) -> Tensor:
    dtype = next(model.parameters()).dtype
    batch = examples.batch(indices, length=LONGEST)
    return examples.task.losses(model, {n: t.to(dtype) if t.is_floating_point() else t for n, t in batch.items()})


def load(live: Mapping[str, nn.Parameter], values: Values) -> None:
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(values[name])
            parameter.grad = None


def backward_together(model: nn.Module, examples: Examples, stack: Stack) -> None:
    """Of every client's mean loss."""
    stack.rows([client for client, rows in enumerate(OWN) for _ in rows])
    weights = torch.tensor([1 / len(rows) for rows in OWN for _ in rows])
    found = losses(model, examples, [row for rows in OWN for row in rows])
    (found * weights.to(found)).sum().backward()


def test_gradients_are_those_that_each_client_has_alone(case):
    require_own_gradients(case, torch.float32, close=1e-6)


def test_gradients_in_float64_are_as_exact_as_that_is():
    """Other tasks' models compute a part in float32, whatever they are in."""
    require_own_gradients(CASES["sequence-classification"], torch.float64, close=1e-12)


def require_own_gradients(case: Case, dtype: torch.dtype, *, close: float) -> None:
    model, examples, live, values = prepared(case, dtype)
    with stacked(model, live, values) as stack:
        backward_together(model, examples, stack)
        found = {name: parameter.grad for name, parameter in stack.parameters.items()}
    for client, rows in enumerate(OWN):
        load(live, values[client])
        if rows:
            losses(model, examples, rows).mean().backward()
        alone = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in live.items()}
        largest = max(float(gradient.abs().max()) for gradient in alone.values()) or 1.0
        for name, gradient in alone.items():
            assert (found[name][client] - gradient).abs().max() <= close * largest, name


def test_clipped_sums_are_those_of_a_loop_over_each_client_s_examples(case):
    model, examples, live, values = prepared(case, torch.float32)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=1, expected_batch=4.0)
    count = len(examples)
    with stacked(model, live, values) as stack:
        shares = [ClientShare(mechanism, SeededSource(0), count) for _ in OWN]
        engine = ClientsEngine(model, stack, shares, microbatch=3, shapes=[1] * count * len(OWN))

        def loss(numbers: Tensor) -> Tensor:
            stack.rows([number // count for number in numbers.tolist()])
            return losses(model, examples, [number % count for number in numbers.tolist()])

        drawn = torch.tensor([client * count + row for client, rows in enumerate(OWN) for row in rows])
        with engine:
            totals = engine.clipped_sum(drawn, loss)
        found = {name: totals[parameter] for name, parameter in stack.parameters.items()}
    for client, rows in enumerate(OWN):
        load(live, values[client])
        one = lambda indices: losses(model, examples, indices.tolist())  # noqa: E731
        alone = looped_clipped_sum(model, one, torch.tensor(rows, dtype=torch.long), clip=CLIP)
        for name, parameter in live.items():
            assert (found[name][client] - alone[parameter]).abs().max() <= 1e-6 * CLIP * max(len(rows), 1), name


def test_one_example_moves_its_own_client_s_sum_by_at_most_c_and_no_other_s():
    """Whoever else is drawn, in whatever passes of three."""
    model, examples, live, values = prepared(CASES["sequence-classification"], torch.float32)
    count, clip = len(examples), 1e-3
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=clip, steps=1, expected_batch=4.0)
    with stacked(model, live, values) as stack:
        shares = [ClientShare(mechanism, SeededSource(0), count) for _ in OWN]
        engine = ClientsEngine(model, stack, shares, microbatch=3, shapes=[1, 2] * (count * len(OWN) // 2))

        def loss(numbers: Tensor) -> Tensor:
            stack.rows([number // count for number in numbers.tolist()])
            return losses(model, examples, [number % count for number in numbers.tolist()])

        def sums(drawn: Tensor) -> Tensor:
            totals = engine.clipped_sum(drawn, loss)
            return torch.cat([total.flatten(1) for total in totals.values()], 1)

        drawn = torch.tensor([client * count + row for client, rows in enumerate(OWN) for row in rows])
        with engine:
            engine.rehearse(loss)
            whole = sums(drawn)
            for one in drawn.tolist():
                moved = (whole - sums(drawn[drawn != one])).norm(dim=1) / clip
                assert moved[one // count] == pytest.approx(1.0, abs=1e-4)
                moved[one // count] = 0.0
                assert moved.max() <= 1e-6


@pytest.mark.parametrize(
    ("optimizer", "dtype", "close"),
    [("sgd", torch.float32, 1e-6), ("sgd", torch.float64, 1e-12),
     ("adamw", torch.float32, 1e-4), ("adamw", torch.float64, 1e-10)],
    ids=str,
)  # fmt: skip
def test_weights_after_five_steps_are_those_that_each_client_has_alone(optimizer, dtype, close):
    """With a term and a clip of the gradient."""
    model, examples, live, values = prepared(CASES["sequence-classification"], dtype)
    train = parse(TrainSettings, {
        "optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 0.002, "head_lr": 0.01,
        "momentum": 0.9 if optimizer == "sgd" else 0.0, "proximal_mu": 0.1, "max_grad_norm": 0.2,
    })  # fmt: skip
    pace = Pace(Turn(0, "a", 1, 1), frozenset(live), {})
    with stacked(model, live, values) as stack:
        together = GroupStepper(model, stack.trained, train, pace, steps=5)
        for _ in range(5):
            backward_together(model, examples, stack)
            together.step(most_norm=train.max_grad_norm)
        found = {name: parameter.detach() for name, parameter in stack.parameters.items()}
    for client, rows in enumerate(OWN):
        if not rows:
            continue
        load(live, values[client])
        alone = Stepper(model, live, train, pace, steps=5)
        for _ in range(5):
            losses(model, examples, rows).mean().backward()
            alone.step(most_norm=train.max_grad_norm)
        moved = max(float((p.detach() - values[client][name]).abs().max()) for name, p in live.items())
        for name, parameter in live.items():
            assert (found[name][client] - parameter).abs().max() <= close * moved, name


def test_the_model_is_afterwards_what_it_was_also_where_something_failed():
    model, _, live, values = prepared(CASES["sequence-classification"], torch.float32)
    kinds, parameters = [type(module) for module in model.modules()], dict(model.named_parameters())

    def fail() -> None:
        with stacked(model, live, values) as stack:
            assert dict(model.named_parameters()).keys() == parameters.keys()
            assert all(len(parameter) == len(OWN) for parameter in stack.parameters.values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [type(module) for module in model.modules()] == kinds
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in parameters.items())


def test_what_is_no_plain_linear_layer_is_refused_by_name():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    live = {"0/weight": model[0].weight}
    with pytest.raises(UnstackableError, match="0 trains and is a LayerNorm"), stacked(model, live, [live, live]):
        pass


def test_rows_that_are_not_those_of_the_pass_are_refused():
    model = nn.Sequential(nn.Linear(4, 2))
    live = {"0/weight": model[0].weight}
    with stacked(model, live, [live, live]) as stack:
        stack.rows([0, 1])
        with pytest.raises(RowsError, match=r"0 is given \(3, 4\), whose first axis is not the 2 rows"):
            model(torch.zeros(3, 4))


def lengths(found: list[list[Row]]) -> list[list[int]]:
    return [[row.length for row in part] for part in found]


def test_a_pass_has_rows_of_like_lengths_and_no_more_than_fit():
    rows = [Row(client, {}, length, 1.0) for client in range(3) for length in (50, 400, 90, 300)]
    assert lengths(passes(rows, most=5)) == [[50, 50, 50], [90, 90, 90], [300, 300, 300], [400, 400, 400]]
    assert max(map(len, passes(rows, most=2))) == 2
    short = [Row(client, {}, length, 1.0) for client in range(3) for length in (5, 6, 9)]
    assert lengths(passes(short, most=9)) == [[5, 5, 5, 6, 6, 6, 9, 9, 9]]  # a pass more costs more than padding
    assert passes([], most=5) == []


def test_a_client_s_rows_stay_together_where_the_model_draws():
    rows = [Row(client, {}, length, 1.0) for client in range(3) for length in (50, 400 - 100 * client)]
    found = passes(rows, most=4, whole=True)
    assert [[row.client for row in part] for part in found] == [[2, 2], [1, 1], [0, 0]]
    assert [len(part) for part in passes(rows, most=1, whole=True)] == [2, 2, 2]

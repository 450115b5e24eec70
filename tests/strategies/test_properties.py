"""What must hold for every strategy in the registry, present and future."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from fedlora.adapters.exactness import aggregation_error
from strategies.base import Recipient
from strategies.registry import STRATEGIES
from strategies.versions import newest, total
from tests.strategies.examples import (
    RANK,
    built,
    ideal_dense,
    kind_of,
    random_adapter,
    served_dense,
    start,
    updates_for,
    with_weights,
)  # fmt: skip

ALL = sorted(STRATEGIES)
GLOBAL = [name for name in ALL if not built(name).traits.keeps]
WEIGHED = [name for name in ALL if not built(name).traits.own_weights]
EXACT = [name for name in ALL if built(name).traits.exact]


def near(name):
    """LoRA-FAIR's cosine is found by iteration, everything else in closed form."""
    return {"atol": 1e-6, "rtol": 1e-6} if name == "fair" else {"atol": 1e-10, "rtol": 1e-10}


def flat(state):
    tensors = dict(state.adapter.tensors())
    for version, residual in enumerate((state.past, *state.residuals)):
        tensors |= {f"{version}/{name}": product.dense() for name, product in residual.items()}
    return tensors | dict(state.memory)


def rounds(strategy, count=3, **options):
    """States and updates of some rounds, one after the other."""
    state = start(strategy)
    history = []
    for number in range(1, count + 1):
        updates = updates_for(strategy, state, round_number=number, **options)
        new = strategy.step(state, strategy.combine(iter(updates)))
        history.append((state, updates, new))
        state = new
    return history


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_names_shapes_and_dtypes_survive(name, dtype):
    strategy = built(name)
    state = start(strategy, dtype=dtype)
    new = strategy.step(state, strategy.combine(updates_for(strategy, state)))
    before, after = state.adapter.tensors(), new.adapter.tensors()
    assert [(key, t.shape, t.dtype) for key, t in before.items()] == [
        (key, t.shape, t.dtype) for key, t in after.items()
    ]
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


@pytest.mark.parametrize("name", ALL)
def test_updates_are_read_once_and_one_at_a_time(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    alive = []

    def one_pass():
        yield from (alive.append(update.client) or update for update in updates)

    combined = strategy.combine(one_pass())
    assert alive == [update.client for update in updates]
    assert combined.clients == 4


@pytest.mark.parametrize("name", ALL)
def test_arguments_are_left_alone(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    before = copy.deepcopy((flat(state), [update.adapter.tensors() for update in updates]))
    new = strategy.step(state, strategy.combine(updates))
    strategy.broadcast(new, Recipient("a"))
    after = (flat(state), [update.adapter.tensors() for update in updates])
    for old, now in ((before[0], after[0]), *zip(before[1], after[1], strict=True)):
        assert all(torch.equal(old[key], now[key]) for key in old)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_arrival_does_not_matter(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    forth = strategy.step(state, strategy.combine(updates))
    back = strategy.step(state, strategy.combine(updates[::-1]))
    for key, dense in served_dense(state, forth).items():
        assert_close(dense, served_dense(state, back)[key], **near(name))


@pytest.mark.parametrize("name", EXACT)
def test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round(name):
    for old, updates, new in rounds(built(name)):
        for key, wanted in ideal_dense(updates).items():
            assert_close(served_dense(old, new)[key], wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", EXACT)
def test_exact_strategies_are_exact_to_1e5_in_float32(name):
    strategy = built(name)
    state = start(strategy, dtype=torch.float32)
    updates = updates_for(strategy, state)
    new = strategy.step(state, strategy.combine(updates))
    for key, wanted in ideal_dense(updates).items():
        assert float((served_dense(state, new)[key] - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("name", WEIGHED)
def test_the_combined_ideal_is_the_mean_of_the_products(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    for key, product in strategy.combine(updates).ideal.items():
        assert_close(product.dense(), ideal_dense(updates)[key], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", GLOBAL)
def test_the_reported_aggregation_error_is_what_dense_matrices_say(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    combined = strategy.combine(updates)
    new = strategy.step(state, combined)
    reported = aggregation_error(combined.ideal, new.adapter, newest(new, state.base_version))
    wanted = {key: product.dense() for key, product in combined.ideal.items()}
    served = served_dense(state, new)
    gap = sum(float((wanted[key] - served[key]).square().sum()) for key in wanted) ** 0.5
    size = sum(float(wanted[key].square().sum()) for key in wanted) ** 0.5
    assert reported == pytest.approx(gap / size, abs=1e-12)
    assert (reported < 1e-10) == strategy.traits.exact


@pytest.mark.parametrize("name", ALL)
def test_one_client_is_served_what_it_trained(name):
    if name == "fair":
        pytest.skip("the refinement of a single client's B is not zero for the cosine's scale; tested in test_fair")
    strategy = built(name)
    state = start(strategy)
    (update,) = updates_for(strategy, state, clients=1)
    new = strategy.step(state, strategy.combine([update]))
    for key, dense in served_dense(state, new).items():
        assert_close(dense, update.adapter.layers[key].dense(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", WEIGHED)
def test_uniform_weighting_ignores_the_number_of_examples(name):
    strategy, weighted = built(name, weighting="uniform"), built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    uniform = strategy.step(state, strategy.combine(updates))
    equal = weighted.step(state, weighted.combine(with_weights(updates, 7.0)))
    unequal = weighted.step(state, weighted.combine(updates))
    for key, dense in served_dense(state, uniform).items():
        assert_close(dense, served_dense(state, equal)[key], **near(name))
        assert not torch.allclose(dense, served_dense(state, unequal)[key])


@pytest.mark.parametrize("name", ALL)
def test_no_update_or_a_bad_weight_is_an_error(name):
    strategy = built(name)
    state = start(strategy)
    with pytest.raises(ValueError, match="no update"):
        strategy.combine(iter(()))
    if not strategy.traits.own_weights:
        for weight in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="must be positive and finite"):
                strategy.combine(with_weights(updates_for(strategy, state), weight))


@pytest.mark.parametrize("name", WEIGHED)
def test_the_head_is_the_weighted_mean(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    new = strategy.step(state, strategy.combine(updates))
    total = sum(update.weight for update in updates)
    mean = sum(update.weight / total * update.adapter.dense["head/bias"] for update in updates)
    assert_close(new.adapter.dense["head/bias"], mean)


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_trained_does_not_change_within_the_round(name):
    """A strategy may re-factor, but a factor outside `trains` reaches every client as one value."""
    strategy = built(name)
    state = start(strategy)
    for update in updates_for(strategy, state):
        frozen = set(update.adapter.tensors()) - set(update.adapter.tensors(strategy.trains(1)))
        assert all(torch.equal(update.adapter.tensors()[key], state.adapter.tensors()[key]) for key in frozen)


@pytest.mark.parametrize("name", ALL)
def test_every_version_of_the_base_can_be_brought_up_to_date(name):
    """A client that holds any earlier version ends where one that attended every round is."""
    strategy = built(name)
    history = rounds(strategy)
    states = [history[0][0], *(new for _, _, new in history)]
    state, whole = states[-1], total(states[-1])
    assert state.base_version == (3 if strategy.traits.moves_base else 0)
    for held in (None, *range(state.base_version + 1)):
        payload = strategy.broadcast(state, Recipient("a", held))
        assert payload.base_version == state.base_version
        for key, product in whole.items():
            assert payload.residual_since in (0, held)
            has = total(states[payload.residual_since]).get(key)
            given = payload.residual.get(key)
            reached = sum(part.dense() for part in (has, given) if part is not None)
            assert_close(reached, product.dense(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("clients", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_a_rounds_residual_has_the_rank_that_is_said_and_none_where_the_base_stands(name, clients):
    """Clients with nothing in common: the bound is reached where a matrix has room for it."""
    strategy = built(name)
    state = start(strategy)
    new = strategy.step(state, strategy.combine(updates_for(strategy, state, clients=clients)))
    said = strategy.residual_rank(clients=clients, r=RANK)
    assert (strategy.residual_rank(clients=5, r=RANK) > 0) == strategy.traits.moves_base
    for residual in newest(new, state.base_version):
        for product in residual.values():
            dense = product.dense()
            assert torch.linalg.matrix_rank(dense, rtol=1e-9) == min(said, *dense.shape)


@pytest.mark.parametrize("name", ALL)
def test_a_base_that_does_not_move_sends_no_residual(name):
    strategy = built(name)
    state = rounds(strategy)[-1][2]
    if not strategy.traits.moves_base:
        payload = strategy.broadcast(state, Recipient("a"))
        assert (payload.base_version, payload.residual, payload.residual_since) == (0, {}, 0)


@pytest.mark.parametrize("name", ALL)
def test_clients_that_trained_nothing_leave_the_served_model_as_it_was(name):
    strategy = built(name)
    state = start(strategy)
    silent = [update.__class__(update.client, update.weight, state.adapter) for update in updates_for(strategy, state)]
    new = strategy.step(state, strategy.combine(silent))
    for key, dense in served_dense(state, new).items():
        assert_close(dense, state.adapter.layers[key].dense(), **near(name))


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_of_zeros_stays_finite(name):
    strategy = built(name)
    core = kind_of(strategy) == "lora_xs"
    zeros = random_adapter(0, core=core).with_tensors(
        {
            key: torch.zeros_like(t)
            for key, t in random_adapter(0, core=core).tensors().items()
            if not key.endswith(".A")
        }
    )
    state = strategy.init(zeros)
    updates = [update.__class__(update.client, 1.0, zeros) for update in updates_for(strategy, state)]
    new = strategy.step(state, strategy.combine(updates))
    assert all(torch.isfinite(tensor).all() for tensor in new.adapter.tensors().values())
    assert all(not torch.any(dense) for dense in served_dense(state, new).values())

"""The compiled loops, the same loops as plain Python, and what numpy does in their stead: the same bits, all three."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlora.wire import indices as index_code
from fedlora.wire import kernels, message, topk, values
from fedlora.wire.indices import IndexCodeError, decode_indices, encode_indices
from fedlora.wire.message import Schema, decode, encode
from fedlora.wire.topk import top_k, top_k_by_sorting
from fedlora.wire.values import ValueCodeError, decode_values, encode_values
from tests.wire.test_message import EXPECTED, HEADER

PLAIN = type("Loops", (), {loop.__name__: staticmethod(loop) for loop in kernels.LOOPS})
WAYS = {"compiled": kernels.compiled, "python": lambda: PLAIN, "numpy": lambda: None}


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def use(monkeypatch, way: str) -> None:
    loops = WAYS[way]()
    if way == "compiled" and loops is None:
        pytest.skip("the extra `fast` is not installed")
    for module in (index_code, message, topk, values):
        monkeypatch.setattr(module, "kernels", lambda n: loops)


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 2, 150, 600, 1199, 2399])
@pytest.mark.parametrize("distinct", [2400, 7])
def test_top_k_is_what_sorting_says_ties_included(monkeypatch, way, k, distinct):
    use(monkeypatch, way)
    numbers = drawn(2400)
    if distinct < len(numbers):
        numbers = numbers[torch.arange(2400) % distinct] * torch.where(torch.arange(2400) % 2 == 0, 1.0, -1.0)
    assert np.array_equal(top_k(numbers, k), top_k_by_sorting(numbers, k))


@pytest.mark.parametrize("outlier", [1.0, 1e30])
def test_a_histogram_finds_the_smallest_of_many(monkeypatch, way, outlier):
    monkeypatch.setattr(topk, "MANY", 8)
    use(monkeypatch, way)
    numbers = drawn(9000).round(decimals=2)  # with ties
    numbers[77] = outlier
    for k in (3, 200, 4000):
        assert np.array_equal(top_k(numbers, k), top_k_by_sorting(numbers, k))


def test_a_sample_that_misleads_costs_no_exactness(monkeypatch):
    """Large values only where the sample does not look, then only where it does."""
    use(monkeypatch, "compiled")
    n = 200_000
    stride = (n // topk.SAMPLE) | 1
    looked_at = torch.arange(n) % stride == 0
    for numbers in (drawn(n) + 100.0 * looked_at, drawn(n) + 100.0 * ~looked_at, torch.ones(n)):
        assert np.array_equal(top_k(numbers, 5_000), top_k_by_sorting(numbers, 5_000))


@given(
    st.integers(0, 10**6),
    st.sampled_from([300, 4096, 5000]),
    st.sampled_from([1 / 2, 1 / 9, 1 / 64, 1 / 300, 1 / 2000]),
)
def test_index_codes_are_the_same_bytes(seed, n, density):
    chosen = np.sort(np.random.default_rng(seed).choice(n, size=max(1, round(density * n)), replace=False))
    codes, read = set(), []
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, way)
            codes.add(encode_indices(chosen.astype(np.int64), n))
            read.append(decode_indices(next(iter(codes)), n, len(chosen)))
    assert len(codes) == 1
    assert all(np.array_equal(found, chosen) for found in read)


@given(st.binary(min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=2 * settings.default.max_examples)
def test_all_three_refuse_the_same_index_codes(noise, place):
    chosen = np.sort(np.random.default_rng(0).choice(4096, size=70, replace=False)).astype(np.int64)
    code = bytearray(encode_indices(chosen, 4096))
    at = place % len(code)
    code[at : at + len(noise)] = noise[: len(code) - at]
    said = []
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, way)
            try:
                said.append(decode_indices(bytes(code), 4096, 70).tolist())
            except IndexCodeError:
                said.append(None)
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("k", [1, 127, 128, 129, 1000])
def test_int4_codes_are_the_same_bytes_and_read_alike(k):
    numbers = drawn(k)
    numbers[: k // 3] = 0.0  # a block of zeros has the scale zero
    codes, read = set(), []
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, way)
            codes.add(encode_values(numbers, "int4"))
            read.append(decode_values(next(iter(codes)), "int4", k))
            spoilt = bytearray(next(iter(codes)))
            spoilt[-1] = 0
            with pytest.raises(ValueCodeError, match="never written"):
                decode_values(bytes(spoilt), "int4", k)
    assert len(codes) == 1
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0], read[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1 / 3])
def test_adding_a_message_is_adding_its_tensors(monkeypatch, way, dtype, scale):
    use(monkeypatch, way)
    tensors = {"x": drawn(700), "y": drawn(30).reshape(5, 6)}
    opened = decode(encode(tensors, HEADER, codec="int4", density=0.1), Schema.of(tensors), EXPECTED)
    assert opened.norm == pytest.approx(
        float(torch.cat([t.flatten() for t in opened.tensors.values()]).double().norm())
    )
    totals = {name: drawn(tensor.numel(), seed=1).reshape(tensor.shape).to(dtype) for name, tensor in tensors.items()}
    wanted = {
        name: (total.double() + scale * opened.tensors[name].double()).to(dtype) for name, total in totals.items()
    }
    if scale == 1.0:
        assert all(torch.equal(added, wanted[name]) for name, added in opened.added_to(totals).items())
    opened.add_to(totals, scale=scale)
    assert all(torch.equal(totals[name], wanted[name]) for name in totals)

"""Indices and values: round trips, lengths, canonical form, and the fast paths against their slow twins."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlora.config.wire import WireSettings
from fedlora.wire.indices import IndexCodeError, code_bytes, decode_indices, encode_indices
from fedlora.wire.message import CODECS as CODEC_NUMBERS
from fedlora.wire.packing import CodecName
from fedlora.wire.topk import top_k, top_k_by_sorting
from fedlora.wire.values import ValueCodeError, decode_values, encode_values, value_bytes

ROOT = Path(__file__).resolve().parents[2]
CODECS: tuple[CodecName, ...] = get_args(CodecName)
BOUND = {"fp32": 0.0, "fp16": 1e-3, "bf16": 8e-3, "int8": 0.51 / 127, "int4": 0.51 / 7, "sign": 2.0}
"""Largest error of a value, as a share of the largest value."""
BYTES = {
    "fp32": "840aa1b473e6b09a",
    "fp16": "c93c6426e692c082",
    "bf16": "9c89d3d802fb13c6",
    "int8": "4d3fa5517026986a",
    "int4": "8bbccb08da83233b",
    "sign": "0a78c7d97ae79df8",
}
"""Fingerprints of one series of values in format 1."""
floats = st.floats(-1e3, 1e3, width=32)


def test_every_codec_has_a_number_a_setting_and_its_cases_here():
    known = set(CODECS)
    assert known == CODEC_NUMBERS.keys(), "a number in update.proto, and a line in CODECS of fedlora/wire/message.py"
    chosen = (get_args(WireSettings.model_fields[field].annotation) for field in ("codec", "download_codec"))
    assert all(known == set(names) - {"auto"} for names in chosen), "a name at `codec` in fedlora/config/wire.py, twice"
    assert known == BOUND.keys() == BYTES.keys(), "a codec needs its largest error in BOUND, its fingerprint in BYTES"
    table = (ROOT / "docs/wire.md").read_text(encoding="utf-8").split("| `wire.codec` |")[1].split("\n\n")[0]
    assert [codec for codec in CODECS if f"`{codec}`" not in table] == [], "a row in the table of docs/wire.md"


@st.composite
def subsets(draw):
    n = draw(st.integers(1, 3000))
    k = draw(st.one_of(st.sampled_from([0, 1, n - 1, n]), st.integers(0, n)))
    chosen = np.random.default_rng(draw(st.integers(0, 2**32))).choice(n, size=max(0, k), replace=False)
    return n, np.sort(chosen).astype(np.int64)


@given(subsets())
def test_indices_round_trip_in_the_promised_length(case):
    n, indices = case
    code = encode_indices(indices, n)
    assert len(code) == code_bytes(n, len(indices))
    assert np.array_equal(decode_indices(code, n, len(indices)), indices)


@pytest.mark.parametrize("index", [0, 1, 2999, 4095])
def test_a_single_index_anywhere_survives(index):
    assert decode_indices(encode_indices(np.array([index]), 4096), 4096, 1).tolist() == [index]


@pytest.mark.parametrize("k", [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 3 << 14])
def test_the_index_code_is_near_the_information_content(k):
    n = 1 << 16
    log2_binomial = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    assert 8 * code_bytes(n, k) <= 1.25 * log2_binomial


@given(subsets(), st.binary(min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=3 * settings.default.max_examples)
def test_a_changed_index_code_is_refused_or_is_the_code_of_other_indices(case, noise, place):
    """Canonical: no two codes for one set, and never an index out of range or out of order."""
    n, indices = case
    code = bytearray(encode_indices(indices, n))
    if not code:
        return
    at = place % len(code)
    code[at : at + len(noise)] = noise[: len(code) - at]
    try:
        found = decode_indices(bytes(code), n, len(indices))
    except IndexCodeError:
        return
    assert np.all(np.diff(found) > 0)
    assert 0 <= found[0] <= found[-1] < n
    assert encode_indices(found, n) == bytes(code)


@given(st.lists(floats, min_size=0, max_size=700), st.sampled_from(CODECS))
def test_values_round_trip_within_the_codecs_error(numbers, codec):
    values = torch.tensor(numbers, dtype=torch.float32)
    code = encode_values(values, codec)
    assert len(code) == value_bytes(codec, len(values))
    found = decode_values(code, codec, len(values))
    largest = float(values.abs().max()) if numbers else 0.0
    assert found.dtype == torch.float32
    assert torch.all((found - values).abs() <= BOUND[codec] * largest + (3e-8 if codec == "fp16" else 1e-40))


def fingerprint(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:16]


@pytest.mark.parametrize(("codec", "bytes_of_format_1"), BYTES.items())
def test_the_bytes_of_values_are_those_that_other_sites_read(codec, bytes_of_format_1):
    """Two sides that change together round-trip whatever they do: blocks, bounds and order are part of the format."""
    values = ((37 * torch.arange(1500)) % 211 - 105) / 64
    assert fingerprint(encode_values(values, codec)) == bytes_of_format_1


@pytest.mark.parametrize(
    ("n", "step", "length", "bytes_of_format_1"),
    [
        (1000, 3, 125, "9fc58368f05bb874"),  # a bitmap
        (4096, 40, 94, "de7d2398af00f49a"),  # Elias-Fano
        (100_000, 1001, 150, "42a962b598247da8"),
    ],
)
def test_the_bytes_of_indices_are_those_that_other_sites_read(n, step, length, bytes_of_format_1):
    code = encode_indices(np.arange(1, n, step), n)
    assert (len(code), fingerprint(code)) == (length, bytes_of_format_1)


@pytest.mark.parametrize("codec", ["int8", "int4", "sign"])
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-12])
def test_a_small_update_is_held_as_exactly_as_a_large_one(codec, size):
    large = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    error, small_error = (
        float((decode_values(encode_values(v, codec), codec, 1000) - v).norm() / v.norm())
        for v in (large, large * size)
    )
    assert small_error == pytest.approx(error, rel=0.02)


@given(st.lists(floats, min_size=1, max_size=700), st.sampled_from(["fp32", "fp16", "bf16", "sign"]))
def test_encoding_what_was_decoded_gives_the_same_bytes(numbers, codec):
    code = encode_values(torch.tensor(numbers, dtype=torch.float32), codec)
    again = decode_values(code, codec, len(numbers))
    if codec != "sign":
        assert encode_values(again, codec) == code
    else:  # a zero is sent as minus nothing where all of its block are zero
        assert torch.equal(decode_values(encode_values(again, codec), codec, len(numbers)), again)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_encoded(codec, bad):
    with pytest.raises(ValueCodeError):
        encode_values(torch.tensor([1.0, bad, 2.0]), codec)


@pytest.mark.parametrize("codec", ["int8", "int4", "sign"])
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, -0.0, 66000.0])
def test_a_bad_scale_is_refused_before_it_is_used(codec, scale):
    code = bytearray(encode_values(torch.ones(10), codec))
    code[:2] = torch.tensor([scale]).bfloat16().view(torch.uint8).numpy().tobytes()
    with pytest.raises(ValueCodeError, match="scale"):
        decode_values(bytes(code), codec, 10)


def test_codes_that_are_never_written_are_refused():
    int8, int4, sign = (bytearray(encode_values(torch.ones(11), codec)) for codec in ("int8", "int4", "sign"))
    int8[-1], int4[2], sign[-1] = 0x80, 0x0F, sign[-1] | 1
    for code, codec in ((int8, "int8"), (int4, "int4"), (sign, "sign")):
        with pytest.raises(ValueCodeError):
            decode_values(bytes(code), codec, 11)


@pytest.mark.parametrize("k", [11, 301])
@pytest.mark.parametrize("last", [0x00, 0x01, 0x0F, 0x81])
def test_an_odd_nibble_at_the_end_is_a_value_and_then_padding(k, last):
    code = bytearray(encode_values(torch.ones(k), "int4"))
    assert code[-1] == 0xF0
    code[-1] = last
    with pytest.raises(ValueCodeError, match="nibble"):
        decode_values(bytes(code), "int4", k)


@pytest.mark.parametrize("codec", CODECS)
def test_a_wrong_length_is_refused(codec):
    code = encode_values(torch.ones(100), codec)
    for wrong in (code[:-1], code + b"\0", b""):
        with pytest.raises(ValueCodeError):
            decode_values(wrong, codec, 100)


@given(
    st.lists(st.one_of(floats, st.sampled_from([0.0, -0.0, 1.0, -1.0])), min_size=1, max_size=400), st.integers(0, 400)
)
def test_top_k_is_what_sorting_says_ties_included(numbers, k):
    values = torch.tensor(numbers, dtype=torch.float32)
    k = min(k, len(numbers))
    assert np.array_equal(top_k(values, k), top_k_by_sorting(values, k))


def test_top_k_of_many_values_agrees_with_torch():
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    for k in (1, 17, 18_750, 150_000, 299_999):
        assert set(top_k(values, k).tolist()) == set(values.abs().topk(k).indices.tolist())

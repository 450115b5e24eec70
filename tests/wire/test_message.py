"""Messages: every rule of the envelope, each with the reject that it causes; states with residuals; error feedback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zlib
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fedlora.lowrank import Product
from fedlora.privacy.signing import load_or_create_key
from fedlora.updates import Adapter, LowRank, add
from fedlora.wire import update_pb2 as pb
from fedlora.wire.chunks import CHUNK, chunks_of, unpack_each, unpack_whole, whole_chunks
from fedlora.wire.message import (
    Expected,
    Header,
    Schema,
    WireError,
    decode,
    encode,
    largest_bytes,
    state_hash,
)
from fedlora.wire.packing import CodecName
from fedlora.wire.state import decode_state, encode_state

HEADER = Header("update", "run-1", 3, "site", "ffa", b"b" * 16)
EXPECTED = Expected("update", "run-1", 3, b"b" * 16, max_norm=1e6)
ROOT = Path(__file__).resolve().parents[2]


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a.B": (30, 4), "b.B": (7, 3), "empty": (0, 4), "long": (CHUNK + 100,), "head/bias": (3,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def rebuilt(blob: bytes, change) -> bytes:
    """The message with its body changed and its hash made right again: what an attacker with no key can do."""
    body = pb.Body.FromString(pb.Envelope.FromString(blob).body)
    change(body)
    packed = body.SerializeToString(deterministic=True)
    return pb.Envelope(body=packed, sha256=hashlib.sha256(packed).digest()).SerializeToString()


def code_of(blob: bytes, schema: Schema | None = None, expected: Expected = EXPECTED, **options) -> str:
    with pytest.raises(WireError) as caught:
        decode(blob, schema or Schema.of(tensors()), expected, **options)
    return caught.value.code


def test_what_is_longer_than_any_message_of_the_schema_is_refused_unread():
    longest = largest_bytes(Schema.of(tensors()))
    assert code_of(bytes(longest + 1)) == "too-large"
    assert code_of(bytes(longest)) != "too-large"


@pytest.mark.parametrize("codec", get_args(CodecName))
@pytest.mark.parametrize("density", [1.0, 0.25, 1 / 16, 1 / 64, 1e-9])
def test_a_message_round_trips_and_keeps_the_largest_values(codec, density):
    given_tensors = tensors()
    message = decode(encode(given_tensors, HEADER, codec=codec, density=density), Schema.of(given_tensors), EXPECTED)
    assert message.header == HEADER
    for name, tensor in given_tensors.items():
        found = message.tensors[name]
        assert found.shape == tensor.shape
        if tensor.numel():
            sent = found != 0
            assert int(sent.sum()) <= max(1, round(density * tensor.numel()))
            if codec == "fp32":
                assert torch.equal(found[sent], tensor[sent])
                assert density == 1.0 or tensor[~sent].abs().max() <= tensor[sent].abs().min()


@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 30), st.floats(0.001, 1.0))
def test_any_shape_and_density_round_trips(seed, m, n, density):
    given_tensors = {"x": torch.randn(m, n, generator=torch.Generator().manual_seed(seed))}
    blob = encode(given_tensors, HEADER, density=density)
    found = decode(blob, Schema.of(given_tensors), EXPECTED).tensors["x"]
    assert int((found != 0).sum()) == max(1, round(density * m * n))


def test_int4_and_sparse_messages_reach_their_reductions():
    big = {"x": torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))}
    size = 4 * (1 << 20)
    assert size / len(encode(big, HEADER, codec="int4")) > 7.5
    assert size / len(encode(big, HEADER, codec="sign")) > 30
    assert size / len(encode(big, HEADER, codec="int4", density=1 / 16)) > 49.9
    assert size / len(encode(big, HEADER, codec="int4", density=1 / 64)) > 165


def test_equal_tensors_have_equal_bytes():
    assert encode(tensors(), HEADER, codec="int4", density=0.1) == encode(tensors(), HEADER, codec="int4", density=0.1)


@pytest.mark.parametrize(
    ("codec", "density", "bytes_of_format_1"),
    [("fp32", 0.01, "affda78f628fbbbd"), ("int4", 1 / 16, "2fb2c797f3aefd45")],
)
def test_the_bytes_of_a_message_are_those_that_other_versions_of_format_1_read(codec, density, bytes_of_format_1):
    """Chunks, their order, what is chosen and how it is coded; a change of any is another format number."""
    counted = {
        "long": ((7919 * torch.arange(CHUNK + 100)) % 1009 - 504) / 64,
        "b": ((7 * torch.arange(60)) % 31 - 15).view(20, 3) / 8,
    }
    blob = encode(counted, HEADER, codec=codec, density=density)
    assert hashlib.sha256(blob).hexdigest()[:16] == bytes_of_format_1


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        (Expected("state", "run-1", 3, b"b" * 16), "wrong-task"),
        (Expected("update", "run-2", 3, b"b" * 16), "wrong-task"),
        (Expected("update", "run-1", 4, b"b" * 16), "wrong-task"),
        (Expected("update", "run-1", 3, b"c" * 16), "wrong-base-state"),
        (Expected("update", "run-1", 3, b"b" * 16, max_norm=1.0), "norm-out-of-range"),
        (Expected("update", "run-1", 3, b"b" * 16, codec="int4"), "wrong-codec"),
    ],
)
def test_what_was_not_asked_for_is_rejected(expected, code):
    assert code_of(encode(tensors(), HEADER), expected=expected) == code


def test_another_schema_is_rejected_by_its_hash():
    other = Schema.of({**tensors(), "a.B": torch.zeros(4, 30)})
    assert code_of(encode(tensors(), HEADER), other) == "wrong-schema"


def set_format(body):
    body.format = 2


def drop_chunk(body):
    del body.chunks[-1]


def too_many_values(body):
    body.chunks[0].k = 121


def claim_everything(body):
    body.chunks[0].k = 2**32 - 1


def longer(body):
    body.chunks[0].payload += b"\0"


def flip(body):
    body.chunks[0].payload = b"\xff" * len(body.chunks[0].payload)


def unknown_codec(body):
    body.codec = 77


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (set_format, "unknown-format"),
        (drop_chunk, "wrong-length"),
        (too_many_values, "wrong-length"),
        (claim_everything, "wrong-length"),
        (longer, "wrong-length"),
        (flip, "corrupt"),
        (unknown_codec, "wrong-codec"),
    ],
)
def test_a_body_that_lies_is_rejected(change, code):
    assert code_of(rebuilt(encode(tensors(), HEADER), change)) == code


def with_crc(change):
    def changed(body):
        import zlib

        change(body)
        for chunk in body.chunks:
            chunk.crc32 = zlib.crc32(chunk.payload)

    return changed


def test_a_nan_with_every_checksum_right_is_rejected():
    assert code_of(rebuilt(encode(tensors(), HEADER), with_crc(flip))) == "bad-values"


def test_indices_that_are_wrong_with_every_checksum_right_are_rejected():
    assert code_of(rebuilt(encode(tensors(), HEADER, density=0.05), with_crc(flip))) == "bad-indices"


@pytest.mark.parametrize("blob", [b"", b"\0", b"hello", b"\x0a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_message_are_rejected(blob):
    assert code_of(blob) in ("malformed-update", "corrupt", "not-canonical", "unknown-format")


def test_unknown_fields_and_other_encodings_of_the_same_message_are_rejected():
    blob = encode(tensors(), HEADER)
    assert code_of(blob + b"\x22\x01x") == "not-canonical"


def test_a_signature_is_verified_before_anything_is_decoded(tmp_path):
    key = load_or_create_key(tmp_path / "key.pem")

    def verify(digest: bytes, signature: bytes) -> bool:
        try:
            key.public_key().verify(signature, digest)
        except Exception:
            return False
        return True

    signed = encode(tensors(), HEADER, sign=key.sign)
    assert decode(signed, Schema.of(tensors()), EXPECTED, verify=verify).header == HEADER
    assert code_of(encode(tensors(), HEADER), verify=verify) == "bad-signature"
    assert code_of(rebuilt(signed, with_crc(flip)), verify=verify) == "bad-signature"


def test_what_is_not_finite_is_not_sent():
    with pytest.raises(WireError, match="not-finite"):
        encode({"x": torch.tensor([1.0, float("nan")])}, HEADER)


def adapter() -> Adapter:
    draw = torch.Generator().manual_seed(1)
    layers = {
        name: LowRank(torch.randn(m, 2, generator=draw), torch.randn(2, n, generator=draw), 0.5)
        for name, (m, n) in {"p": (12, 9), "q": (5, 5)}.items()
    }
    return Adapter(layers, {"head/bias": torch.zeros(3)})


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("ranks", [{}, {"p": 1}, {"p": 3, "q": 4}, {"p": 9}])
def test_a_state_carries_the_adapter_and_the_residual_dense_where_that_is_shorter(codec, ranks):
    draw = torch.Generator().manual_seed(2)
    residual = {
        name: Product(
            torch.randn(adapter().layers[name].shape[0], rank, generator=draw).double(),
            torch.randn(rank, adapter().layers[name].shape[1], generator=draw).double(),
        )
        for name, rank in ranks.items()
    }
    blob = encode_state(adapter(), residual, run="r", round_number=2, strategy="fedex", codec=codec)
    received, moved = decode_state(blob, adapter(), run="r", round_number=2)
    for name, tensor in adapter().tensors().items():
        assert_close(received.tensors()[name], tensor, atol=1e-2, rtol=1e-2)
    assert moved.keys() == residual.keys()
    for name, product in residual.items():
        assert_close(moved[name].dense(), product.dense(), atol=1e-5, rtol=1e-5)
    with pytest.raises(WireError):
        decode_state(blob, adapter(), run="r", round_number=3)


@pytest.mark.parametrize("blob", [b"\0", b"hello", b"\x0a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_state_are_rejected_as_those_of_any_message(blob):
    with pytest.raises(WireError, match=r"malformed-update|corrupt|not-canonical|unknown-format"):
        decode_state(blob, adapter(), run="r", round_number=2)


def test_a_matrix_that_nothing_was_added_to_is_not_sent():
    """FedEx-LoRA with one client: a residual of rank 0. Its empty factors would be another schema."""
    one = Product(torch.ones(5, 1).double(), torch.ones(1, 5).double())
    none = Product(torch.zeros(12, 0).double(), torch.zeros(0, 9).double())
    blob = encode_state(adapter(), {"p": none, "q": one}, run="r", round_number=2, strategy="fedex", codec="fp32")
    _, moved = decode_state(blob, adapter(), run="r", round_number=2)
    assert moved.keys() == {"q"}
    assert torch.equal(moved["q"].dense(), one.dense())


def test_a_residual_of_absurd_rank_is_rejected_before_anything_is_allocated():
    def absurd(body):
        body.residual_ranks.extend([2**31, 1])

    blob = rebuilt(encode_state(adapter(), {}, run="r", round_number=2, strategy="x", codec="fp32"), absurd)
    with pytest.raises(WireError, match="wrong-schema"):
        decode_state(blob, adapter(), run="r", round_number=2)


def test_a_state_with_a_minus_zero_has_the_same_hash_after_it_has_travelled():
    """Codecs leave zeros out, with their signs: all sites' updates of a round were refused for one of them."""
    x = {"a": torch.tensor([[-0.0, 1.0]]), "b": torch.tensor([-0.0])}
    assert state_hash(x) == state_hash({name: tensor.abs() for name, tensor in x.items()})


def test_a_state_hash_tells_names_and_bits_apart():
    x = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert state_hash(x) == state_hash({name: tensor.clone() for name, tensor in x.items()})
    assert len({state_hash(x), state_hash({"a": x["b"], "b": x["a"]}), state_hash(add(x, x))}) == 3


def test_the_generated_code_is_that_of_the_proto_file(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
         str(ROOT / "fedlora/wire/update.proto")],
        check=True,
    )  # fmt: skip
    for name in ("update_pb2.py", "update_pb2.pyi"):
        assert (tmp_path / "fedlora/wire" / name).read_text() == (ROOT / "fedlora/wire" / name).read_text()


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16"])
def test_a_whole_message_in_one_piece_is_what_tensor_after_tensor_gives(codec):
    given_tensors = tensors()
    slow = [chunk for t in given_tensors.values() for chunk in chunks_of(t.flatten(), codec, 1.0, False)]
    assert list(whole_chunks(given_tensors, codec)) == slow
    shapes = Schema.of(given_tensors).shapes
    for fast, part in zip(unpack_whole(slow, shapes, codec), unpack_each(slow, shapes, codec), strict=True):
        assert (fast.name, fast.start, fast.n, fast.indices) == (part.name, part.start, part.n, None)
        assert fast.values.tobytes() == part.values.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_whole_message_has_no_value_that_is_not_finite(bad):
    given_tensors = tensors()
    given_tensors["b.B"][2, 1] = bad
    with pytest.raises(WireError, match="not-finite"):
        encode(given_tensors, HEADER)
    good = encode(tensors(), HEADER)

    def spoil(body: pb.Body) -> None:
        values = torch.frombuffer(bytearray(body.chunks[1].payload), dtype=torch.float32).clone()
        values[7] = bad
        body.chunks[1].payload = values.numpy().tobytes()
        body.chunks[1].crc32 = zlib.crc32(body.chunks[1].payload)

    assert code_of(rebuilt(good, spoil)) == "bad-values"

"""The download: an adapter, and the residual that brings a site's base to the current version.

A residual's rank per matrix is declared in the header and bounded by min(m, n); where factors would be longer than the
matrix itself, the matrix is sent. Residuals travel in float32 whatever the codec: they stay in the base for good.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from fedlora.lowrank import Product, as_product, dense_is_smaller
from fedlora.updates import Adapter
from fedlora.wire import update_pb2 as pb
from fedlora.wire.message import Expected, Header, Schema, WireError, decode, encode
from fedlora.wire.packing import CodecName


def encode_state(
    adapter: Adapter, residual: Mapping[str, Product], *, run: str, round_number: int, strategy: str, codec: CodecName
) -> bytes:
    """Pack the adapter, rounded to `codec`, and the residual; use `decoded_adapter` for what the receiver will hold."""
    names = sorted(adapter.layers)
    ranks = tuple(residual[name].rank if name in residual else 0 for name in names) if residual else ()
    header = Header("state", run, round_number, strategy=strategy, residual_ranks=ranks)
    tensors = {name: rounded(tensor, codec) for name, tensor in adapter.tensors().items()}
    for name in names:
        if name in residual:
            tensors |= residual_tensors(name, residual[name])
    return encode(tensors, header, codec="fp32" if residual else codec)


def decoded_adapter(adapter: Adapter, codec: CodecName) -> Adapter:
    """The adapter as a receiver decodes it: what clients really start from."""
    return adapter.with_tensors({name: rounded(tensor, codec) for name, tensor in adapter.tensors().items()})


def decode_state(blob: bytes, template: Adapter, *, run: str, round_number: int) -> tuple[Adapter, dict[str, Product]]:
    """The adapter in `template`'s shapes, and the residual. WireError on anything else."""
    ranks = declared_ranks(blob, template)
    shapes = {name: tuple(tensor.shape) for name, tensor in template.tensors().items()}
    for name, rank in ranks.items():
        shapes |= residual_shapes(name, template.layers[name].shape, rank)
    message = decode(blob, Schema(shapes), Expected("state", run, round_number))
    own = {name: message.tensors[name] for name in template.tensors()}
    residual = {name: residual_product(name, message.tensors) for name in ranks}
    return template.with_tensors(own), residual


def declared_ranks(blob: bytes, template: Adapter) -> dict[str, int]:
    """Rank of each matrix's residual, bounded before anything is made of it."""
    try:
        ranks = list(pb.Body.FromString(pb.Envelope.FromString(blob).body).residual_ranks)
    except DecodeError:
        return {}  # `decode` says what is wrong
    names = sorted(template.layers)
    if ranks and len(ranks) != len(names):
        raise WireError("wrong-schema")
    declared = {name: rank for name, rank in zip(names, ranks, strict=False) if rank > 0}
    if any(rank > min(template.layers[name].shape) for name, rank in declared.items()):
        raise WireError("wrong-schema")
    return declared


def residual_shapes(name: str, shape: tuple[int, int], rank: int) -> dict[str, tuple[int, ...]]:
    m, n = shape
    if dense_is_smaller(rank, shape):
        return {f"residual/{name}": (m, n)}
    return {f"residual/{name}.U": (m, rank), f"residual/{name}.V": (rank, n)}


def residual_tensors(name: str, product: Product) -> dict[str, Tensor]:
    factors = {f"residual/{name}.U": product.U_mp, f"residual/{name}.V": product.V_pn}
    wanted = residual_shapes(name, product.shape, product.rank)
    return {key: (factors[key] if key in factors else product.dense()).float() for key in wanted if product.rank > 0}


def residual_product(name: str, tensors: Mapping[str, Tensor]) -> Product:
    dense = tensors.get(f"residual/{name}")
    if dense is not None:
        return as_product(dense.double())
    return Product(tensors[f"residual/{name}.U"].double(), tensors[f"residual/{name}.V"].double())


def rounded(tensor: Tensor, codec: CodecName) -> Tensor:
    """The tensor at the codec's precision, in float32."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return tensor.float() if codec not in dtypes else tensor.to(dtypes[codec]).float()

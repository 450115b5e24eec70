"""The download: an adapter, and the residual that brings a site's base to the current version."""

from __future__ import annotations

from collections.abc import Mapping

from fedlora.lowrank import Product
from fedlora.updates import Adapter
from fedlora.wire.message import Expected, Header, Schema, WireError, decode, encode, state_hash

__all__ = ["decode_state", "encode_state", "state_hash"]


def encode_state(adapter: Adapter, residual: Mapping[str, Product], *, run: str, round_number: int) -> bytes:
    tensors = dict(adapter.tensors())
    for name, product in residual.items():
        tensors[f"residual/{name}/U"] = product.U_mp.float()
        tensors[f"residual/{name}/V"] = product.V_pn.float()
    return encode(tensors, Header("state", run, round_number))


def decode_state(blob: bytes, template: Adapter, *, run: str, round_number: int) -> tuple[Adapter, dict[str, Product]]:
    from safetensors.torch import load

    tensors = load(blob)
    decode(blob, Schema.of(tensors), Expected("state", run, round_number, b"", float("inf")))
    residual = {
        name.split("/")[1]: Product(tensors[name].double(), tensors[name[:-1] + "V"].double())
        for name in tensors
        if name.startswith("residual/") and name.endswith("/U")
    }
    flat = {name: tensor for name, tensor in tensors.items() if not name.startswith("residual/")}
    if flat.keys() != template.tensors().keys():
        raise WireError("wrong-schema")
    return template.with_tensors(flat), residual

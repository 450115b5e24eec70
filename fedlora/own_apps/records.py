"""What travels between a ServerApp and a ClientApp of one's own, read without Flower.

arrays   the state: an adapter under PEFT's names, as Flower's own arrays. What a strategy has added to the base
         (FedEx-LoRA, FLoRA) is beside it, and then every array is of a type of ours: a client or an evaluation
         that reads only A and B fails, instead of training on another base
config   what is trained, what is kept, of what round, how an answer is packed
answer   the trained arrays, or one packed blob of their differences (`fedlora.wire`)
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib import format as npy
from pydantic import Field
from torch import Tensor

from fedlora.adapters.peft_names import Scale, adapter_of, by_peft_key
from fedlora.config.wire import WireSettings
from fedlora.factor import Factor
from fedlora.lowrank import Product
from fedlora.settings import Settings, SettingsError
from fedlora.updates import Adapter, Tensors
from fedlora.wire.message import state_hash
from fedlora.wire.state import residual_product, residual_tensors

JSON_KEY = "fedlora"
"""In the ConfigRecord, beside the app's own settings."""
NUMPY_STYPE = "numpy.ndarray"
MOVED_STYPE = "fedlora.flower.receive"
"""Type of every array of a state whose base has moved: the error of whoever reads it otherwise names what reads it."""
PACKED_KEY = "fedlora.update"
"""Of an answer's only array, where it is packed."""
RESIDUAL = "residual/"


class Order(Settings):
    """What one message asks of a client, in its ConfigRecord."""

    run: str = Field(pattern=r"^[0-9a-f]{32}$")
    strategy: str
    round: int = Field(ge=1)
    rounds: int | None = Field(None, ge=1)
    """The last round; None where nobody has said."""
    trains: tuple[Factor, ...]
    """Trained and sent; everything else stays as received."""
    keeps: tuple[Factor, ...] = ()
    """Trained and kept by the client, and not in the message."""
    base_version: int = Field(0, ge=0)
    steady: bool = True
    """Whether coordinates are those of the round before, so that an optimiser's moments mean something."""
    lora_alpha: float | None = None
    """PEFT's, as the coordinator knows it, where it adds to the base: a client of another scale refuses."""
    use_rslora: bool = False
    wire: WireSettings | None = None
    """How the answer is packed; None: as plain arrays."""
    used_round: int = Field(0, ge=0)
    """The last round in which this client's answer was used."""


class ArrayLike(Protocol):
    """Flower's Array."""

    stype: str
    data: bytes


def order_in(config: Mapping[str, Any]) -> Order | None:
    """The order in a ConfigRecord; None where its sender is no strategy of ours."""
    text = config.get(JSON_KEY)
    return None if text is None else Order.model_validate_json(str(text))


def hash_of(received: Adapter, order: Order) -> bytes:
    """Names the state that a message held: without what the client keeps."""
    return state_hash(received.tensors(frozenset(Factor) - frozenset(order.keeps)))


def named_tensors(arrays: Mapping[str, ArrayLike]) -> dict[str, Tensor]:
    """Every array by its name, nothing shared with the record; ValueError where one is not what it says."""
    return {name: tensor_in(array) for name, array in arrays.items()}


def tensor_in(array: ArrayLike) -> Tensor:
    """Guarantee: nothing larger than the array's own bytes is allocated, and nothing in them is executed."""
    if array.stype not in (NUMPY_STYPE, MOVED_STYPE):
        raise ValueError(f"an array of the type {array.stype!r}")
    file = io.BytesIO(array.data)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.kind not in "fiu":
        raise ValueError(f"an array of {dtype}")
    values = np.frombuffer(array.data, dtype=dtype, offset=file.tell())
    if values.size != math.prod(shape):
        raise ValueError(f"an array of shape {shape} with {values.size} values")
    return torch.from_numpy(values.reshape(shape, order="F" if columns_first else "C").copy())


def bytes_of(tensor: Tensor) -> bytes:
    """As Flower writes an array; bfloat16, which numpy has not, as float32."""
    buffer = io.BytesIO()
    plain = tensor.detach().cpu()
    np.save(buffer, (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy())
    return buffer.getvalue()


def state_tensors(adapter: Tensors, total: Mapping[str, Product]) -> dict[str, Tensor]:
    """What a state is made of, by name: an adapter's tensors, and what was added to the base."""
    tensors = by_peft_key(adapter)
    for name, product in total.items():
        tensors |= residual_tensors(name, product)
    return tensors


def state_in(tensors: Tensors, scale: Scale) -> tuple[Adapter, dict[str, Product]]:
    """An adapter, and what is to be added to the base of every layer; SettingsError where they are none."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(RESIDUAL)}
    adapter = adapter_of(own, scale)
    residual: dict[str, Product] = {}
    for name, layer in adapter.layers.items():
        if f"{RESIDUAL}{name}" in tensors or f"{RESIDUAL}{name}.U" in tensors:
            residual[name] = residual_product(name, tensors)
            if residual[name].shape != layer.shape:
                raise SettingsError(f"the residual of {name} is {residual[name].shape}, its matrix {layer.shape}.")
    return adapter, residual

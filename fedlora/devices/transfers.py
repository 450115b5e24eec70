"""Tensors to a device and back in one copy, not one each: every copy from pageable memory stops the process until it is
done.

    host tensors ─► one page-locked buffer ─► one copy, that waits for nothing ─► views of it on the device
    device tensors ─► one flat tensor there ─► one copy ─► views of it on the host

On a CPU nothing is packed. Values are the same bits in every way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNED = 16
"""Bytes: a view of another dtype begins at a multiple of its size, and CUDA's loads at one of 16."""


@dataclass(frozen=True)
class Packed:
    """Tensors by name as one buffer of bytes, which may be on another device by now."""

    buffer: Tensor
    places: Mapping[str, tuple[int, torch.dtype, torch.Size]]
    """Offset in bytes, dtype and shape of each."""

    def to(self, device: torch.device) -> Packed:
        return Packed(self.buffer.to(device, non_blocking=True), self.places)

    def views(self) -> dict[str, Tensor]:
        found = {}
        for name, (offset, dtype, shape) in self.places.items():
            size = shape.numel() * dtype.itemsize
            found[name] = self.buffer[offset : offset + size].view(dtype).view(shape)
        return found


def packed(tensors: Mapping[str, Tensor], *, pinned: bool = False) -> Packed:
    """A copy of CPU tensors side by side; `pinned`: in page-locked memory, which a device reads by itself."""
    places: dict[str, tuple[int, torch.dtype, torch.Size]] = {}
    end = 0
    for name, tensor in tensors.items():
        places[name] = (end, tensor.dtype, tensor.shape)
        end += -(-tensor.numel() * tensor.dtype.itemsize // ALIGNED) * ALIGNED
    whole = Packed(torch.empty(end, dtype=torch.uint8, pin_memory=pinned), places)
    for name, view in whole.views().items():
        view.copy_(tensors[name])
    return whole


def carried(tensors: Mapping[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """CPU tensors on `device`. torch keeps a page-locked buffer until the copy from it is done."""
    there = torch.device(device)
    if there.type != "cuda":
        return {name: tensor.to(there) for name, tensor in tensors.items()}
    return packed(tensors, pinned=True).to(there).views()


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the CPU, in float32 and shared with nothing."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [tensor.detach().to("cpu", torch.float32, copy=True) for tensor in tensors]
    return in_one([tensor.detach().float() for tensor in tensors])


def in_one(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one dtype and device, copied to the CPU as one; each has its own memory in the end."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape).clone() for part, tensor in zip(parts, tensors, strict=True)]


def reading_waits(tensor: Tensor) -> bool:
    """Whether to look at a value is to wait until the device has computed it."""
    return tensor.device.type != "cpu"


def read_together(*scalars: Tensor) -> list[float]:
    """Numbers of one device by one reading: each by itself would wait for the device."""
    return [float(value) for value in torch.stack([scalar.detach().double() for scalar in scalars]).tolist()]

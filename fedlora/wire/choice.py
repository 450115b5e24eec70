"""`codec: auto`: choose a codec after measuring the update; and the loss of any codec.

The client's optimiser decides the shape of its updates: AdamW's are nearly sign-like (kurtosis 2 to 3), where one bit a
value keeps most of the energy; SGD's are heavy-tailed (kurtosis 10 and more), where a few large values hold it. Both
shares are measured: for signs with one scale a tensor it is (mean |x|)² / mean x², for top-k what the k largest hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedlora.config.wire import WireSettings
from fedlora.updates import Tensors, norm, subtract
from fedlora.wire.packing import CodecName, Packing
from fedlora.wire.topk import top_k

SPARSE = 1 / 16


@dataclass(frozen=True)
class Choice:
    """A codec, a density, and what `auto` measured to choose them."""

    codec: CodecName
    density: float
    densities: Mapping[str, float] | None = None
    """Of every tensor by its name, where they differ; `density` is their mean by size."""
    kurtosis: float | None = None
    top_energy: float | None = None

    @property
    def quotas(self) -> float | Mapping[str, float]:
        """Density per tensor, as `encode` takes it."""
        return self.density if self.densities is None else self.densities


def choose(tensors: Tensors, settings: WireSettings) -> Choice:
    """The settings' own codec, or for `auto` whichever of sign and sparse int4 keeps more of this update's energy."""
    if settings.codec != "auto":
        return as_set(tensors, settings.codec, settings)
    density = min(settings.density, SPARSE)
    measured = kurtosis(tensors), top_energy(tensors, SPARSE)
    if sign_energy(tensors) >= top_energy(tensors, density):
        return Choice("sign", settings.density, None, *measured)
    return Choice("int4", density, None, *measured)


def as_set(tensors: Tensors, codec: CodecName, settings: WireSettings) -> Choice:
    """The settings' own density, or one for every tensor."""
    if not settings.densities.given:
        return Choice(codec, settings.density)
    shares = {name: settings.density_of(name) for name in tensors}
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    mean = sum(shares[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
    return Choice(codec, short(mean), shares)


def packing_of(choice: Choice, update: Tensors, sent: Tensors) -> Packing:
    """The report, with rounded numbers because they travel."""
    size = 0.0 if sent is update else norm(update)  # what arrives as it was has no error
    error = norm(subtract(update, sent)) / size if size else 0.0
    return Packing(
        codec=choice.codec,
        density=choice.density,
        error=short(error),
        kurtosis=None if choice.kurtosis is None else short(choice.kurtosis),
        top_energy=None if choice.top_energy is None else short(choice.top_energy),
    )


def short(number: float) -> float:
    return float(f"{number:.3g}")


def kurtosis(tensors: Tensors) -> float:
    """Fourth moment over the squared second, over all values together: 1 for signs, 3 for a Gaussian."""
    values = torch.cat([tensor.flatten().double() for tensor in tensors.values()])
    second = values.square().mean()
    return float(values.pow(4).mean() / second.square()) if second > 0 else 0.0


def sign_energy(tensors: Tensors) -> float:
    """Share of the squares that one sign a value keeps, with the mean magnitude of each tensor as scale."""
    kept = sum(float(tensor.double().abs().sum().square()) / tensor.numel() for tensor in tensors.values())
    return kept / whole if (whole := norm(tensors) ** 2) else 1.0


def top_energy(tensors: Tensors, density: float) -> float:
    """Share of the squares that the `density` share of largest values of each tensor holds."""
    kept = 0.0
    for tensor in tensors.values():
        flat = tensor.detach().float().flatten()
        chosen = torch.from_numpy(top_k(flat, max(1, round(density * flat.numel()))))
        kept += float(flat[chosen].double().square().sum())
    return min(1.0, kept / whole) if (whole := norm(tensors) ** 2) else 1.0

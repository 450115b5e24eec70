"""Models that the private engine refuses, and a check that training changed only what it should.

Refused at the door: trained parameters outside layers with per-example gradients (embeddings, norms, Conv1D, DoRA's
magnitude), DoRA whatever trains, and batch normalisation that has no statistics of its own: it takes its batch's, in
every mode. Refused during a step (`engine`): a module in train mode that may draw or mix (`quiet`), a batch that is not
first, a loss that is not one per example, a parameter used outside its layer. Refused in the rehearsal (`rehearsal`): a
loss or gradient that changes with the other examples of its batch, and whatever still draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fedlora.privacy.refusal import Code, Refusal

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_WHOLE = 1 << 16
_SAMPLED = 1024


def require_supported(model: nn.Module, owned: Iterable[nn.Parameter]) -> None:
    """Refuse a model for which one example's influence cannot be bounded; `owned` have per-example gradients."""
    covered = set(owned)
    if not covered:
        raise Refusal(
            Code.UNSUPPORTED_MODEL, "nothing trains in an nn.Linear; set requires_grad before entering the engine."
        )
    for name, module in model.named_modules():
        if any(getattr(module, "use_dora", {}).values() if isinstance(getattr(module, "use_dora", {}), dict) else ()):
            raise Refusal(
                Code.UNSUPPORTED_MODEL, f"{name} uses DoRA, whose norm mixes A and B outside their layers; use LoRA."
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in covered:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name} trains but is not part of a plain nn.Linear, so there is no gradient per example; freeze it.",
            )
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name} trains in {parameter.dtype}, in which norms are wrong by about one percent; keep trained "
                "parameters in float32 and use autocast.",
            )
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS) and module.running_mean is None:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name or type(module).__name__} has no running statistics and uses those of its batch, "
                "which mixes examples; use layer normalisation.",
            )


class FrozenWeightsCheck:
    """Remembers every parameter, to tell after a step that what trains moved and that what is frozen did not.

    Small tensors are compared whole, large ones by 1,024 evenly spread values: a corrupted or merged base shows in
    those, and a copy of the base would cost its memory again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._before = {name: _values(parameter) for name, parameter in self._parameters.items()}

    def require_moved(self) -> None:
        now = {name: _values(parameter) for name, parameter in self._parameters.items()}
        all_moved = [(now[name] != before).any() for name, before in self._before.items()]
        for (name, parameter), moved in zip(self._parameters.items(), read_each(all_moved), strict=True):
            if parameter.requires_grad and not moved:
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"{name} trains but did not change in a private step; give its parameter to the optimizer, with a "
                    "learning rate above 0.",
                )
            if moved and not parameter.requires_grad:
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"{name} is frozen but changed in a private step; only the gradients of trained parameters are "
                    "private.",
                )


@torch.no_grad()
def _values(parameter: Tensor) -> Tensor:
    flat = parameter.detach().flatten()
    if flat.numel() <= _WHOLE:
        return flat.clone()
    stride = flat.numel() // _SAMPLED
    return flat[::stride].clone()


def read_each(answers: Sequence[Tensor]) -> list[bool]:
    """Of any devices, by one reading each: one by one, each would wait for its device."""
    by_device: dict[torch.device, list[int]] = {}
    for place, answer in enumerate(answers):
        by_device.setdefault(answer.device, []).append(place)
    found = [False] * len(answers)
    for places in by_device.values():
        for place, value in zip(places, torch.stack([answers[place] for place in places]).tolist(), strict=True):
            found[place] = bool(value)
    return found

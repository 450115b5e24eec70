"""Put LoRA (or the LoRA-XS core) into a model through PEFT, on targets that are named or detected."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters.dense import dense_modules
from fedlora.adapters.unfit import bare_attention, fused_experts, read_by_a_scan
from fedlora.config import AdapterSettings
from fedlora.devices.draws import draws_apart
from fedlora.settings import SettingsError, nearest

log = logging.getLogger("fedlora.adapters")

ADAPTER = "default"
QUERY_AND_VALUE = frozenset(
    {"query", "value", "q_proj", "v_proj", "q", "v", "q_lin", "v_lin", "query_proj", "value_proj"}
)
FUSED_ATTENTION = frozenset({"c_attn", "query_key_value", "qkv_proj", "qkv", "in_proj", "Wqkv"})
# Not on the path from the input to a mean-pooled output, or not part of the frozen base.
NEVER_ADAPTED = ("pooler", "lm_head", "embed_out")


class CoredB(nn.Module):
    """LoRA-XS: B · R in the place of B. Only `core` (R, r x r) trains; `outer` (B) is fixed.

    Source: Fed-SB (arXiv 2502.15436) on LoRA-XS: ΔW = s · B R A.
    """

    def __init__(self, outer: nn.Linear) -> None:
        super().__init__()
        r = outer.in_features
        self.core = nn.Linear(r, r, bias=False, dtype=outer.weight.dtype, device=outer.weight.device)
        nn.init.zeros_(self.core.weight)
        self.outer = outer

    @property
    def weight(self) -> Tensor:
        """B (m, r): what PEFT looks at for dtype and device."""
        return self.outer.weight

    def forward(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.outer(self.core(hidden))
        return projected


def inject(model: nn.Module, settings: AdapterSettings) -> None:
    """Add an adapter to `model` in place and freeze everything else; its output is unchanged (B or R is zero).

    What trains is in float32 or, in a float64 base, in float64.
    """
    model.requires_grad_(False)
    names = target_names(model, settings)
    if settings.targets == "all-linear":
        say_what_is_left_out(model)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # PEFT divides it by r; a fraction is fine
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=names,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
    )
    with draws_apart():  # PEFT draws A from the global generator; `initial_adapter` replaces it
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for _, layer in adapted_layers(
        model
    ):  # PEFT makes them of the base's dtype: norms in bfloat16 are off by a percent
        for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            factor.to(torch.promote_types(factor.weight.dtype, torch.float32))
    if settings.kind == "lora_xs":
        for _, layer in adapted_layers(model):
            layer.lora_B[ADAPTER] = CoredB(layer.lora_B[ADAPTER])


def say_what_is_left_out(model: nn.Module) -> None:
    """What `all-linear` promises and no adapter fits."""
    if fused := fused_experts(model):
        log.warning(
            "all-linear does not adapt the experts of %s: they are fused in one tensor, which stays unchanged", fused[0]
        )
    if scanned := [name for name in linear_names(model) if read_by_a_scan(model, name)]:
        log.warning(
            "all-linear leaves out %d matrices like %s: a fused scan reads them directly, not through their layers",
            len(scanned),
            scanned[0],
        )


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Every adapted module with its path in the un-adapted model."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def target_names(model: nn.Module, settings: AdapterSettings) -> list[str]:
    """Full module paths of the matrices to adapt; SettingsError when nothing fits."""
    linears = linear_names(model)
    chosen = [name for name in linears if _is_target(name, settings)]
    require_each_there(linears, chosen, settings)
    scanned = [name for name in chosen if read_by_a_scan(model, name)]
    if settings.targets == "all-linear":
        chosen = [name for name in chosen if name not in scanned]
    elif scanned:
        raise SettingsError(
            f"adapter.targets: {scanned[0]} would never train: a fused scan reads its weight directly, not through "
            "the layer; name others (in_proj), or use attention."
        )
    if settings.layers is not None:
        chosen = [name for name in chosen if layer_index(name) in settings.layers]
    if not chosen:
        raise nothing_fits(model, linears, settings)
    return chosen


def linear_names(model: nn.Module) -> list[str]:
    """Full module paths of all linear layers of the frozen base: of no module that trains whole."""
    dense = tuple(path for path, _ in dense_modules(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and not any(part in name for part in NEVER_ADAPTED)
        and not any(name == path or name.startswith(f"{path}.") for path in dense)
    ]


def nothing_fits(model: nn.Module, linears: Sequence[str], settings: AdapterSettings) -> SettingsError:
    """What a model without such matrices is refused with: what it keeps elsewhere, and what could be adapted."""
    last_parts = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
    asked = f"adapter.targets={settings.targets!r}"
    asked += f" with adapter.layers={settings.layers!r}" if settings.layers is not None else ""
    bare = bare_attention(model) if settings.targets == "attention" else None
    return SettingsError(
        f"{asked} matches no matrix of this model"
        + (f": {bare} are plain parameters, not linear layers, and cannot be adapted" if bare else "")
        + (
            f"; its linear layers are called: {last_parts}. Name those to adapt in adapter.targets, or all-linear."
            if linears
            else "; it has no linear layers, so nothing in it can be adapted. Choose another model."
        )
    )


def require_each_there(linears: Sequence[str], chosen: Sequence[str], settings: AdapterSettings) -> None:
    """SettingsError for a target or a layer that stands in the settings and nowhere in the model."""
    if isinstance(settings.targets, tuple):
        last_parts = sorted({name.rpartition(".")[2] for name in linears})
        for wanted in settings.targets:
            if not any(_is_called(name, wanted) for name in linears):
                near = nearest(wanted, [*last_parts, *linears])
                raise SettingsError(
                    f"adapter.targets: {wanted!r} matches no matrix of this model; "
                    + (f"did you mean {near!r}? Its" if near else "its")
                    + f" linear layers are called: {', '.join(last_parts)}."
                )
    there = {index for name in chosen if (index := layer_index(name)) is not None}
    beyond = sorted(set(settings.layers or ()) - there)
    if beyond and there:
        raise SettingsError(
            f"adapter.layers: layer {beyond[0]} has nothing to adapt; the model's layers are {min(there)} to "
            f"{max(there)}."
        )


def adapted_shapes(model: nn.Module, settings: AdapterSettings) -> dict[str, tuple[int, int]]:
    """(m, n) of every matrix that `inject` would adapt, whatever the layer stores."""
    shapes = {}
    for name in target_names(model, settings):
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            shapes[name] = (module.out_features, module.in_features)  # a weight of 4 bits is packed
        else:
            columns, rows = module.weight.shape  # type: ignore[misc]  # target_names: the others are Conv1D
            shapes[name] = (rows, columns)
    return shapes


def _is_target(name: str, settings: AdapterSettings) -> bool:
    last = name.rpartition(".")[2]
    if settings.targets == "all-linear":
        return True
    if settings.targets == "attention":
        return last in QUERY_AND_VALUE or last in FUSED_ATTENTION
    return any(_is_called(name, wanted) for wanted in settings.targets)


def _is_called(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def layer_index(name: str) -> int | None:
    """Which transformer layer a module path belongs to; None for one outside of them."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)

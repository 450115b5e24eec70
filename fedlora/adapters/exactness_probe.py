"""The exactness probe: for a PEFT adapter type, is averaging its trainable parameters the same as averaging ΔW?

Two clients with random trainable parameters are averaged; the effective weight of the average is compared with the
average of the effective weights. If they differ, every group of parameters (by name, such as `lora_A`) is frozen in
turn: shared by the clients, the rest averaged. Measured on the installed PEFT, not looked up.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import peft
import torch
from torch import Tensor, nn

from fedlora.adapters import inject
from fedlora.config import AdapterSettings
from fedlora.devices.draws import draws_apart
from fedlora.settings import SettingsError

WIDTH = 24
EXACT = 1e-6
# Prompts, routers and mixtures: they need more than one layer and its input.
NOT_FOR_LINEAR = {
    "PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE",
    "POLY", "XLORA", "MIXED", "LN_TUNING", "TRAINABLE_TOKENS",
}  # fmt: skip


@dataclass(frozen=True)
class Exactness:
    """What averaging does to one adapter type; errors are relative, in the Frobenius norm."""

    adapter: str
    error: float
    frozen: Mapping[str, float]
    """Error when this group of parameters is shared by all clients."""

    @property
    def exact(self) -> bool:
        return self.error < EXACT

    @property
    def exact_with_frozen(self) -> tuple[str, ...]:
        return tuple(group for group, error in self.frozen.items() if error < EXACT)

    def when_training(self, trained: Collection[str]) -> float:
        """The error when only these groups differ between clients: everything, or all but one frozen group."""
        frozen = sorted(self.frozen.keys() - set(trained))
        if len(frozen) == 1:
            return self.frozen[frozen[0]]
        return self.error if not frozen else 0.0


class OneLayer(nn.Module):
    """The smallest model: one linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden


def adapter_types() -> tuple[str, ...]:
    """The types of the installed PEFT that can adapt one linear layer, by name."""
    return tuple(sorted(t.value.lower() for t in peft.PEFT_TYPE_TO_CONFIG_MAPPING if t.value not in NOT_FOR_LINEAR))


def probe(adapter: str, *, seed: int = 0) -> Exactness:
    """Measure one adapter type (`dora` is LoRA with use_dora, `lora_xs` is Fed-SB's). SettingsError if it cannot be."""
    with draws_apart(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            return measured(adapter, build(adapter))
        except Exception as error:  # PEFT's own checks are of many kinds
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            known = ", ".join(adapter_types())
            raise SettingsError(f"cannot probe adapter type {adapter!r}: {text} Known: {known}.") from None


def measured(adapter: str, model: nn.Module) -> Exactness:
    """The error of averaging everything, and with each group of parameters shared."""
    first, second = random_parameters(model, seed=1), random_parameters(model, seed=2)
    groups = sorted({group_of(name) for name in first})
    shared = {group: {n: t if group_of(n) != group else first[n] for n, t in second.items()} for group in groups}
    frozen = {group: error_of(model, first, other) for group, other in shared.items()} if len(groups) > 1 else {}
    return Exactness(adapter, error_of(model, first, second), frozen)


def build(adapter: str) -> nn.Module:
    """One adapted layer."""
    if adapter.lower() == "lora_xs":
        return core_between_fixed_factors()
    name = "LORA" if adapter.lower() == "dora" else adapter.upper()
    config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(name)]
    fields = inspect.signature(config_class).parameters
    wanted: dict[str, object] = {"target_modules": ["layer"], "r": 4, "use_dora": adapter.lower() == "dora"}
    if name in ("OFT", "BOFT"):
        wanted |= {"r": 0, f"{name.lower()}_block_size": 4}
    special: dict[str, dict[str, object]] = {
        "IA3": {"feedforward_modules": []},
        "FOURIERFT": {"n_frequency": 50},
        "C3A": {"block_size": 4},
    }
    wanted.update(special.get(name, {}))
    config = config_class(**{key: value for key, value in wanted.items() if key in fields})
    model: nn.Module = peft.get_peft_model(OneLayer(), config)
    return model.eval()


def core_between_fixed_factors() -> nn.Module:
    """fedlora's own LoRA-XS: only the core trains."""
    model = OneLayer()
    inject(model, AdapterSettings(kind="lora_xs", r=4, targets=("layer",)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".core." in name)
        if ".outer." in name:
            nn.init.orthogonal_(parameter)  # PEFT starts B at zero; Fed-SB's does not train
    return model.eval()


def random_parameters(model: nn.Module, *, seed: int) -> dict[str, Tensor]:
    """Values for everything that trains: the initial ones plus noise, so that no factor is zero."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: parameter.detach() + 0.3 * torch.randn(parameter.shape, generator=draw)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def group_of(name: str) -> str:
    """`base_model.model.layer.lora_A.default.weight` -> `lora_A`."""
    known = [part for part in name.split(".") if part not in ("base_model", "model", "layer", "default", "weight")]
    return known[-1] if known else name


def effective(model: nn.Module, parameters: Mapping[str, Tensor]) -> Tensor:
    """What the adapted layer adds to the base: (WIDTH, WIDTH)."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
        changed: Tensor = model(torch.eye(WIDTH)).mT
    return changed


def error_of(model: nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """‖W(mean of parameters) - mean of W‖ / ‖mean of W - W0‖ for weights 1/3 and 2/3."""
    mean = {name: (tensor + 2 * second[name]) / 3 for name, tensor in first.items()}
    wanted = (effective(model, first) + 2 * effective(model, second)) / 3
    base = base_weight(model)
    return float((effective(model, mean) - wanted).norm() / (wanted - base).norm())


def base_weight(model: nn.Module) -> Tensor:
    """The frozen weight under the adapter."""
    for name, parameter in model.named_parameters():
        if name.endswith(("base_layer.weight", "layer.weight")) and not parameter.requires_grad:
            return parameter.detach()
    return torch.zeros(WIDTH, WIDTH)

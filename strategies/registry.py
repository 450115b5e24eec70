"""Every strategy by the name that recipes use. A new one is a file and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from fedlora.settings import SettingsError, parse
from strategies.base import Strategy, StrategySettings
from strategies.fair import LoRAFAIR
from strategies.fedex import FedExLoRA
from strategies.fedit import FedIT
from strategies.fedsa import FedSALoRA
from strategies.fedsb import FedSB
from strategies.fedsvd import FedSVD
from strategies.ffa import FFALoRA
from strategies.flexlora import FlexLoRA
from strategies.flora import FLoRA
from strategies.hetlora import HetLoRA
from strategies.rolora import RoLoRA
from strategies.server_optimizer import Optimised, ServerOptimizer

STRATEGIES: dict[str, type[StrategySettings]] = {
    "fair": LoRAFAIR,
    "fedex": FedExLoRA,
    "fedit": FedIT,
    "fedsa": FedSALoRA,
    "fedsb": FedSB,
    "fedsvd": FedSVD,
    "ffa": FFALoRA,
    "flexlora": FlexLoRA,
    "flora": FLoRA,
    "hetlora": HetLoRA,
    "rolora": RoLoRA,
}


SERVER_OPTIMIZER = "server_optimizer"


def named(**traits: bool) -> list[str]:
    """Strategies with these traits."""
    built = {name: build(name, {}).traits for name in sorted(STRATEGIES)}
    return [name for name, has in built.items() if all(getattr(has, key) == value for key, value in traits.items())]


def build(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy with its settings, and its server optimiser; SettingsError for an unknown name or setting.

    >>> build("fedsdv", {})
    Traceback (most recent call last):
    fedlora.settings.SettingsError: unknown strategy.name 'fedsdv'; did you mean 'fedsvd'?
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        way_out = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(STRATEGIES))}."
        raise SettingsError(f"unknown strategy.name {name!r}; {way_out}")
    own = {key: value for key, value in options.items() if key != SERVER_OPTIMIZER}
    strategy: Any = parse(STRATEGIES[name], own, prefix="strategy")
    built: Strategy = strategy
    if options.get(SERVER_OPTIMIZER) is None:
        return built
    return Optimised(built, parse(ServerOptimizer, options[SERVER_OPTIMIZER], prefix=f"strategy.{SERVER_OPTIMIZER}"))

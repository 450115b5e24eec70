"""Every strategy by the name that recipes use. A new one is a file and a line here, or a plug-in.

A plug-in's object is a `strategies.base.StrategySettings` that is a `Strategy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlora.nearest import nearest
from fedlora.plugins.loading import load_plug_in, wrong_kind
from fedlora.plugins.names import Kind, is_plug_in, registered
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


def names() -> list[str]:
    """Every strategy that has a name here: fedlora's own, and those of installed packages."""
    return sorted({*STRATEGIES, *registered(Kind.STRATEGY)})


def strategy_named(name: str) -> type[StrategySettings]:
    """The class of that name; SettingsError for an unknown one, or a plug-in that is not to be had or no strategy."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    if not is_plug_in(Kind.STRATEGY, name, STRATEGIES):
        near = nearest(name, names())
        way_out = f"did you mean {near!r}?" if near else f"known: {', '.join(names())}."
        raise SettingsError(f"unknown strategy.name {name!r}; {way_out}")
    found = load_plug_in(Kind.STRATEGY, name)
    if not (isinstance(found, type) and issubclass(found, StrategySettings)):
        raise wrong_kind(Kind.STRATEGY, name, found, "a class under strategies.base.StrategySettings")
    lacking = [method for method in ("traits", "trains", "combine", "step") if not hasattr(found, method)]
    if lacking:
        raise wrong_kind(Kind.STRATEGY, name, found, f"what strategies.base.Strategy lists; it lacks {lacking[0]}")
    return found


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
    own = {key: value for key, value in options.items() if key != SERVER_OPTIMIZER}
    strategy: Any = parse(strategy_named(name), own, prefix="strategy")
    built: Strategy = strategy
    if options.get(SERVER_OPTIMIZER) is None:
        return built
    return Optimised(built, parse(ServerOptimizer, options[SERVER_OPTIMIZER], prefix=f"strategy.{SERVER_OPTIMIZER}"))

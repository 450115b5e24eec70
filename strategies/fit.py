"""Whether a recipe and its strategy go together: what is refused before a run, and what a person should know."""

from __future__ import annotations

from collections.abc import Iterator

from fedlora.adapters.exactness_probe import EXACT, probe
from fedlora.config import Recipe
from fedlora.config.robust import COORDINATE_RULES
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from strategies.base import Strategy
from strategies.registry import STRATEGIES, build

GROUPS = {
    "lora": {"lora_A": Factor.A, "lora_B": Factor.B},
    "lora_xs": {"core": Factor.R},
}
"""The probe's name of every factor that an adapter kind can train."""


def require_fit(recipe: Recipe, strategy: Strategy) -> None:
    """Refuse an adapter kind that the strategy does not train, and unequal devices where it cannot average them."""
    trains_core = Factor.R in strategy.trains(1)
    if trains_core != (recipe.adapter.kind == "lora_xs"):
        needed = "lora_xs" if trains_core else "lora"
        raise SettingsError(
            f"strategy {recipe.strategy.name} trains {'a core R' if trains_core else 'A or B'}, "
            f"adapter.kind={recipe.adapter.kind} does not have it; set adapter.kind={needed}."
        )
    if strategy.traits.keeps and recipe.privacy.enabled and not recipe.privacy.report_metrics:
        raise SettingsError(
            f"strategy {recipe.strategy.name} has no global model: its quality is what clients report of theirs, and "
            "under privacy they do not. Set privacy.report_metrics=true (and let the sites' policies allow it)."
        )
    if recipe.devices and not strategy.traits.unequal_ranks:
        raise SettingsError(
            f"strategy {recipe.strategy.name} averages factors of one shape and cannot serve unequal devices; remove "
            f"`devices`, or choose one of: {', '.join(named(unequal_ranks=True))}."
        )
    if recipe.wire.download == "changes":
        require_changes_fit(recipe, strategy)
    require_robust_fit(recipe, strategy)


def require_changes_fit(recipe: Recipe, strategy: Strategy) -> None:
    """Refuse downloads as changes where there is no one state whose changes could be sent."""
    if strategy.traits.moves_base:
        raise SettingsError(
            f"wire.download: changes has nothing to build on with strategy {recipe.strategy.name}: it moves the base, "
            "by a residual that must fit the adapter that is served, exactly. Use wire.download=whole."
        )
    if recipe.devices:
        raise SettingsError(
            "wire.download: changes needs one state for all clients; with `devices` each is sent its own part of it. "
            "Use wire.download=whole."
        )


def require_robust_fit(recipe: Recipe, strategy: Strategy) -> None:
    """Refuse a rule that the strategy gives no meaning."""
    settings, name = recipe.robust, recipe.strategy.name
    if settings.rule in COORDINATE_RULES and not strategy.traits.linear_uploads:
        raise SettingsError(
            f"robust.rule={settings.rule} puts one value of each coordinate in place of all, and {name} looks at whole "
            "updates: their products would be lost. Choose robust.rule=screen or multi-krum, or a strategy whose "
            f"uploads are linear: {', '.join(named(linear_uploads=True))}."
        )
    if settings.on_products and strategy.traits.keeps:
        kept = ", ".join(sorted(strategy.traits.keeps))
        measured = "robust.norm_bound" if settings.norm_bound is not None else f"robust.rule={settings.rule}"
        raise SettingsError(
            f"{measured} measures ΔW, and with {name} every site serves a ΔW of its own whose {kept} never leave it. "
            "Choose robust.rule=median or trimmed-mean, or another strategy."
        )


def remarks(recipe: Recipe, strategy: Strategy) -> Iterator[str]:
    """What is allowed and should be known: averaging that is not exact, as the probe measures it; no global model."""
    name, traits = recipe.strategy.name, strategy.traits
    if traits.keeps:
        yield f"strategy {name} has no global model: every client ends with one of its own."
        return
    found = probe(recipe.adapter.kind)
    averaged = {group for group, factor in GROUPS[recipe.adapter.kind].items() if factor in strategy.trains(1)}
    error = found.when_training(averaged)
    if error > EXACT and not traits.exact:
        kept = " or ".join(found.exact_with_frozen)
        yield (
            f"strategy {name} averages {' and '.join(sorted(averaged))}, and that is not averaging ΔW (the probe: off "
            f"by {error:.0%} for two random clients; exact with {kept} frozen). Every round reports its aggregation "
            f"error; exact are: {', '.join(named(exact=True))}."
        )


def named(**traits: bool) -> list[str]:
    """Strategies with these traits."""
    built = {name: build(name, {}).traits for name in sorted(STRATEGIES)}
    return [name for name, has in built.items() if all(getattr(has, key) == value for key, value in traits.items())]

"""What a comparison runs: recipes, variants, swept settings and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.differing import changed_by
from fedlora.settings import SettingsError
from server.trial import Trial
from simulations.comparing.finished import Run
from simulations.comparing.rows import best_rows


@dataclass(frozen=True)
class Planned:
    """One run to do: the recipe file, its overrides, and the folder that holds the result once it is finished."""

    method: str
    recipe: str
    overrides: tuple[str, ...]
    settings: str
    """What is swept."""
    seed: int
    folder: Path
    out: Path
    """The comparison's own folder, after which it is called."""

    @property
    def name(self) -> str:
        """In the store: nothing else there is called so."""
        return str(self.folder.resolve().relative_to(self.out.resolve().parent))

    @property
    def trial(self) -> Trial:
        return Trial(self.out.resolve().name, self.method, changed_by(self.recipe, self.overrides))


def plan(
    recipes: Sequence[str],
    sweeps: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    variants: Sequence[str] = (),
) -> list[Planned]:
    """Every recipe in every variant, with every combination of swept values and every seed.

    A sweep is `key=v1,v2,v3`, or `recipe-name:key=v1,v2` for one recipe only; a variant `name:key=value,key=value`.
    """
    planned = []
    for recipe, (variant, changed) in itertools.product(recipes, map(variant_of, variants or [""])):
        name = Path(recipe).stem
        axes = [axis for sweep in sweeps if (axis := sweep_axis(sweep, name))]
        for values in itertools.product(*axes):
            for seed in seeds:
                settings = " ".join(values)
                folder = out / name / variant.replace("/", "-")
                folder = folder / (settings.replace("=", "-").replace(" ", "_") or "default") / f"seed-{seed}"
                own = (*overrides, *changed, *values, f"seed={seed}")
                planned.append(Planned(method_of(recipe, variant), recipe, own, settings, seed, folder, out))
    return planned


def variant_of(text: str) -> tuple[str, list[str]]:
    """Name and overrides of a variant; no settings at all for a name alone.

    >>> variant_of("1/16 both:wire.density=0.0625,wire.download=changes"), variant_of("dense")
    (('1/16 both', ['wire.density=0.0625', 'wire.download=changes']), ('dense', []))
    """
    name, _, changed = text.partition(":")
    if "=" in name:
        raise SettingsError(f"--variant {text!r}: write it as NAME:key=value,key=value.")
    return name, changed.split(",") if changed else []


def sweep_axis(sweep: str, recipe: str) -> list[str]:
    """`key=value` for each value of the sweep, or nothing if it is for another recipe.

    >>> sweep_axis("train.lr=0.1,0.2", "ffa"), sweep_axis("fedsvd:train.lr=1", "ffa")
    (['train.lr=0.1', 'train.lr=0.2'], [])
    """
    only, colon, rest = sweep.partition(":")
    if colon and only != recipe:
        return []
    key, equals, values = (rest if colon else sweep).partition("=")
    if not equals or not values:
        raise SettingsError(f"--sweep {sweep!r}: write it as key=value1,value2, for example --sweep train.lr=0.05,0.1.")
    return [f"{key}={value}" for value in values.split(",")]


def repeated(
    runs: Sequence[Run],
    recipes: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path,
    variants: Sequence[str] = (),
) -> list[Planned]:
    """Each method's best setting of `runs` once more with these seeds: a sweep on one seed, the spread over several."""
    best = {row.method: row.settings for row in best_rows(runs)}
    planned = []
    for recipe, variant in itertools.product(recipes, variants or [""]):
        sweeps = best[method_of(recipe, variant_of(variant)[0])].split()
        planned += plan([recipe], sweeps, seeds, overrides, out, [variant])
    return planned


def method_of(recipe: str, variant: str) -> str:
    return f"{Path(recipe).stem} {variant}".strip()

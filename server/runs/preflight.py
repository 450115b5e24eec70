"""Checks of a run before it starts: its classes, the coordinator's test set, and the approved sites.

Nothing of a site's data is here: how many examples there are, and of which classes, each site's own doctor says there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fedlora.config import Recipe
from fedlora.config.former import former_remarks
from fedlora.data.classes import alike
from fedlora.settings import SettingsError, nearest
from server.runs.held_out import classes_of, held_out
from server.settings import ServerSettings
from server.trust.provision import read_registry
from strategies.compatibility import ANYWHERE, Place, case_of, require_sensible


def place_of(settings: ServerSettings | None) -> Place:
    """Where a coordinator's runs take place; None: a simulation's."""
    return ANYWHERE if settings is None else Place(engine="sites", evaluates=settings.held_out is not None)


def look_before(settings: ServerSettings, recipe: Recipe) -> list[str]:
    """Lines for the person who submits the run; SettingsError for what cannot work with these files."""
    from fedlora.data.lengths import percent  # transformers and PEFT, which a dashboard need not wait for
    from fedlora.models.base import load_processor

    require_sensible(case_of(recipe, place_of(settings)))
    load_processor(recipe.model)  # a model that is not here ends every attempt
    read = held_out(settings)
    seen = Counter(name for row in read.rows for name in row.classes) if read else Counter[str]()
    labels = classes_of(settings, recipe, tuple(seen))
    unknown = sorted(seen.keys() - set(labels))
    if unknown:
        near = nearest(unknown[0], labels)
        raise SettingsError(
            f"held_out in server.yaml has the class {unknown[0]!r}, but the run has {', '.join(labels)}"
            + (f"; is it {near!r}? " if near else ". ")
            + "Correct the file, or data.labels in the recipe."
        )
    said = [("classes", ", ".join(labels))] if labels else []
    if read is not None:
        whole = seen.total()
        shares = ", ".join(f"{label} {seen[label]} ({percent(seen[label], whole)})" for label in labels)
        said.append(("test set", f"{read.counts}: {shares}" if labels else str(read.counts)))
    said += [("note", remark) for remark in former_remarks(recipe)]
    said += [("careful", doubt) for doubt in doubts(settings, recipe, labels, has_test_set=read is not None)]
    return [f"{what:<9} {text}" for what, text in said]


def doubts(settings: ServerSettings, recipe: Recipe, labels: tuple[str, ...], *, has_test_set: bool) -> Iterator[str]:
    """Warnings about what can still be corrected: sites can be approved after a run was submitted."""
    from server.requests.planner import OTHERS  # as above

    for group in alike(labels):
        yield f"the classes {' and '.join(map(repr, group))} differ only in case or spaces"
    if not has_test_set:
        yield "no held_out in server.yaml: the quality of the result will not be measured"
    sites = read_registry(settings).sites
    if recipe.rounds.min_clients > len(sites):
        yield f"rounds.min_clients={recipe.rounds.min_clients}, and {len(sites)} sites are approved: the run will wait"
    for name in sorted(recipe.devices.keys() - {OTHERS} - sites.keys()):
        near = nearest(name, [*sites, OTHERS])
        yield f"devices.{name} is not an approved site" + (f"; did you mean {near!r}?" if near else "")

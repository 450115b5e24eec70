"""Audit a recipe's claim through the product's own path: canaries in a site's file, and rows taken out of one.

Canaries are rows whose gradient is a random direction of norm C, or longer, to try the clipping
(`fedlora.privacy.canaries`), each in the file with probability one half. The auditor is the strongest there is: it sees
every step's released gradient. What is claimed is what the site's ledger was charged. Rounds go on until what could be
wrong would be found with probability `ENOUGH`; whether they do depends on the claim alone, never on a score.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binom

from fedlora.config import Recipe
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.folder_names import folder_name
from fedlora.privacy import gaussian_audit
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.audit import Guesses, epsilon_lower_bound, guess, p_value
from fedlora.privacy.canaries import Layout, planting
from fedlora.privacy.gaussian_audit import Claim, Design, Finding
from fedlora.privacy.released import Scores, watching
from fedlora.settings import SettingsError
from simulations.auditing.federation import Federation, federate_alone, require_auditable
from simulations.auditing.rows import Moved, moved_by_rows
from simulations.auditing.site import Planting, clients_of, drawn_canaries, make_site, spread
from simulations.data.partition import federation

ENOUGH = 0.99
"""Power that is enough: no further round is run."""

LEAST_POWER = 0.9
"""Smallest power at which an audit that refutes nothing has a conclusion."""

GAUSSIAN_TESTS = 3
"""Names of the tests that share one half of 1 - confidence; the distribution-free bound has the other half, because its
δ term sets a lower limit."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Settings of an audit."""

    client: str | None = None
    """The audited client; the largest one if None."""
    canaries: int = 2000
    guesses: int | None = None
    """Guesses of the distribution-free bound; if None, as many as its canaries are expected to be drawn, less a
    fifth."""
    confidence: float = 0.99
    rounds: int | None = None
    """Number of rounds; if None, the smallest number with enough power."""
    longest: float = 10.0
    """Norm of the longer half of the canaries, in C."""
    rows: int = 64
    """Rows of the file from which single rows are removed."""
    take_out: int = 8
    compute: ComputeSettings = OWN
    """How this machine computes."""

    @property
    def level_of_the_bound(self) -> float:
        return (1 - self.confidence) / 2

    @property
    def level_of_a_test(self) -> float:
        return (1 - self.confidence) / 2 / GAUSSIAN_TESTS


@dataclass(frozen=True)
class Audit:
    """Result of an audit: what was claimed for the steps taken, and what was found."""

    client: str
    rounds: int
    steps: int
    noise_multiplier: float
    rate: float
    delta: float
    confidence: float
    epsilon_claimed: float
    epsilon_lower_bound: float
    guesses: Guesses
    findings: Sequence[Finding]
    moved: Moved
    power: Mapping[str, float]
    """Probability that the Gaussian tests refute, by what would be wrong."""
    power_of_bound: float
    """Probability that the distribution-free bound refutes a run without noise."""
    blind: str | None
    """Why the audit itself cannot be trusted, if so."""

    @property
    def refuted(self) -> bool:
        """A True is a bug, or bad luck with probability 1 - confidence."""
        return self.moved.refuted or any(finding.refuted for finding in self.findings)

    @property
    def conclusive(self) -> bool:
        """Whether the audit had enough power to detect the faults that it looks for."""
        return self.blind is None and min(self.power.values()) >= LEAST_POWER


def audit(recipe: Recipe, asked: Asked) -> Audit:
    """Train one client of the recipe with canaries, then take rows out of its file; all in a folder of its own."""
    require_auditable(recipe)
    labels = federation(recipe.data, model=recipe.model, seed=recipe.seed).labels
    with tempfile.TemporaryDirectory(prefix="fedlora-audit-") as temporary:
        folder = Path(temporary)
        clients = clients_of(recipe, folder / "data")
        name = asked.client or max(clients, key=lambda client: len(clients[client]))
        if name not in clients:
            raise SettingsError(f"no client {name!r} in this recipe; there are: {', '.join(sorted(clients))}.")
        rows = clients[name]
        planned = drawn_canaries(recipe, rows, labels, count=asked.canaries, longest=asked.longest)
        test = folder / "data" / folder_name(name) / "test.csv"
        site = make_site(folder / "site", name, [*rows, *planned.present], test=test, compute=asked.compute)
        with planting(planned.canaries, source=recipe.privacy.engine) as planted:
            run, scores = federate_alone(recipe, labels, site, folder / "run"), Scores(planted, asked.canaries)
            Layout([run.values], asked.canaries, seed=recipe.seed)  # too many canaries fail here, not at the site
            with watching(scores.see):
                go_on(run, scores, asked)
        task, blob = run.task_for_a_new_site()
        part = make_site(folder / "rows", "rows", spread(rows, asked.rows), test=None, compute=asked.compute)
        moved = moved_by_rows(task, blob, spread(rows, asked.rows), take_out=asked.take_out, site=part)
        return judged(run, scores, planned, asked, moved=moved, drawn=planted.drawn)


def go_on(run: Federation, scores: Scores, asked: Asked) -> None:
    """Round after round, until there is power enough or the recipe has no more."""
    last = min(asked.rounds or run.recipe.rounds.count, run.recipe.rounds.count)
    for number in range(1, last + 1):
        run.go_on(number)
        claims = run.claims()
        if asked.rounds is None and min(power_of(claims, scores, asked).values()) >= ENOUGH:
            return


def power_of(claims: Sequence[Claim], scores: Scores, asked: Asked) -> dict[str, float]:
    """Probability that these tests detect each fault."""
    if not len(scores):
        return {"anything": 0.0}
    return gaussian_audit.power(
        Design(
            claims=claims,
            canaries=asked.canaries,
            held_out=scores.held_out,
            norm=asked.longest,
            level=asked.level_of_a_test,
        )
    )


def judged(run: Federation, scores: Scores, planned: Planting, asked: Asked, *, moved: Moved, drawn: int) -> Audit:
    """Compare what was seen with what was charged."""
    claims, delta, level = run.claims(), run.recipe.privacy.delta, asked.level_of_a_test
    if len(scores) < len(claims):
        raise SettingsError(f"{len(claims)} steps were charged and the audit saw {len(scores)}: it cannot conclude.")
    events = [Event(rate=claim.rate, noise_multiplier=claim.noise_multiplier, steps=1) for claim in claims]
    claimed, seen = epsilon(events, delta=delta), scores.against(claims, planned.included)
    guesses = asked.guesses or guesses_for(claims, asked.canaries)
    found = guess(seen.scores_tm.sum(0).tolist(), planned.included, guesses=guesses)
    return Audit(
        client=run.site.site,
        rounds=run.rounds.progress.round,
        steps=len(claims),
        noise_multiplier=min(claim.noise_multiplier for claim in claims),
        rate=max(claim.rate for claim in claims),
        delta=delta,
        confidence=asked.confidence,
        epsilon_claimed=claimed,
        epsilon_lower_bound=epsilon_lower_bound(found, delta=delta, confidence=1 - asked.level_of_the_bound),
        guesses=found,
        findings=[
            Finding("steps", f"{len(scores)} taken, {len(claims)} charged", float(len(scores) == len(claims)), 0.0),
            gaussian_audit.noise(seen, level=level),
            gaussian_audit.sampling(seen, level=level),
            gaussian_audit.clipping(seen, level=level),
            Finding("any (ε, δ)", heard(found), p_value(found, epsilon=claimed, delta=delta), asked.level_of_the_bound),
        ],
        moved=moved,
        power=power_of(claims, scores, asked),
        power_of_bound=power_of_bound(claims, claimed, found, delta=delta, level=asked.level_of_the_bound),
        blind=gaussian_audit.blind(seen, drawn=drawn),
    )


def heard(found: Guesses) -> str:
    """The guesses in words."""
    return f"{found.right} of {found.guesses} guesses right for {found.canaries} canaries"


def chance_of_a_draw(claims: Sequence[Claim]) -> float:
    """That an included canary is drawn at least once."""
    return 1 - math.prod(1 - claim.rate for claim in claims)


def guesses_for(claims: Sequence[Claim], canaries: int) -> int:
    """Four fifths of the included canaries that are likely to be drawn: others cannot be told from held-out ones."""
    return max(1, round(0.8 * canaries / 2 * chance_of_a_draw(claims)))


def power_of_bound(claims: Sequence[Claim], claimed: float, found: Guesses, *, delta: float, level: float) -> float:
    """The probability that the distribution-free bound refutes a run without noise: every guess is then right."""
    best = Guesses(found.canaries, found.guesses, found.guesses)
    if p_value(best, epsilon=claimed, delta=delta) > level:
        return 0.0
    return float(binom.sf(found.guesses - 1, found.canaries // 2, chance_of_a_draw(claims)))

"""Text of an audit's result."""

from __future__ import annotations

from fedlora.privacy.shown import at_most
from simulations.auditing.audit import LEAST_POWER, Audit
from simulations.auditing.rows import TOLERANCE

ASSUMES = {
    "steps": "nothing",
    "noise": "the claimed mechanism; exact",
    "sampling": "the claimed mechanism; normal for so many canaries",
    "clipping": "the claimed mechanism; a union bound",
    "any (ε, δ)": "nothing about the mechanism (Steinke et al. 2023)",
}


def verdict(audit: Audit) -> str:
    """The verdict, in the last line."""
    if audit.refuted:
        return "THE CLAIM IS REFUTED."
    if audit.blind is not None:
        return f"NO CONCLUSION: {audit.blind}."
    if not audit.conclusive:
        weak = ", ".join(fault for fault, power in audit.power.items() if power < LEAST_POWER)
        return (
            f"NO CONCLUSION: this audit would have missed ({weak}) too often. More --rounds or --canaries, or a larger "
            "--longest where it is the clipping."
        )
    return "The claim stands: what would have refuted it is listed above."


def text_of(audit: Audit) -> str:
    """The full report: what was done, what each test saw and assumes, what would have been detected, the verdict."""
    return "\n".join([claim(audit), *found(audit), *power(audit), verdict(audit)])


def claim(audit: Audit) -> str:
    """The claim that is tested."""
    return (
        f"{audit.client}: rounds: {audit.rounds}, steps: {audit.steps}, each charged at q <= {audit.rate:.4g} and "
        f"σ >= {audit.noise_multiplier:g}: ε {at_most(audit.epsilon_claimed)} at δ {audit.delta:g}, one example "
        f"added or removed. What refutes it, at {audit.confidence:.2%}, is marked !"
    )


def found(audit: Audit) -> list[str]:
    """One line per test."""
    moved = audit.moved
    return [
        *(
            f"{'!' if test.refuted else ' '} {test.test}: {test.seen}; p = {test.p_value:.2g}. "
            f"Assumes {ASSUMES[test.test]}."
            for test in audit.findings
        ),
        f"{'!' if moved.refuted else ' '} rows: {len(moved.distances)} of {moved.rows} rows, each removed from a "
        f"file on its own, change the clipped sum by at most {moved.most:.6f} C (bound 1 + {TOLERANCE:g}). Assumes "
        "nothing.",
    ]


def power(audit: Audit) -> list[str]:
    """The faults that these tests would have detected."""
    return [
        f"ε is at least {audit.epsilon_lower_bound:.3f}, whatever the mechanism; a run without noise would have been "
        f"refuted by this bound alone with probability {audit.power_of_bound:.2f}.",
        "Would have been refuted with probability: "
        + ", ".join(f"{fault} {chance:.4f}" for fault, chance in audit.power.items())
        + ".",
    ]

"""An audit in words."""

from __future__ import annotations

from simulations.audit import LEAST_POWER, Audit
from simulations.audit_rows import TOLERANCE

ASSUMES = {
    "steps": "nothing",
    "noise": "the claimed mechanism; exact",
    "sampling": "the claimed mechanism; normal for so many canaries",
    "clipping": "the claimed mechanism; a union bound",
    "any (ε, δ)": "nothing about the mechanism (Steinke et al. 2023)",
}


def verdict(audit: Audit) -> str:
    """One line, the last one."""
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
    """What was done, what each test saw and assumes, what would have been found, the verdict."""
    lines = [
        f"{audit.client}: {audit.rounds} rounds, {audit.steps} steps, each charged at q <= {audit.rate:.4g} and "
        f"σ >= {audit.noise_multiplier:g}: ε {audit.epsilon_claimed:.3f} at δ {audit.delta:g}, one example added or removed.",
        f"Refuted at {audit.confidence:.2%} by what is marked !",
    ]
    for finding in audit.findings:
        mark = "!" if finding.refuted else " "
        lines.append(
            f"{mark} {finding.test}: {finding.seen}; p = {finding.p_value:.2g}. Assumes {ASSUMES[finding.test]}."
        )
    moved = audit.moved
    lines += [
        f"{'!' if moved.refuted else ' '} rows: {len(moved.distances)} of {moved.rows} rows taken out of a file move the "
        f"clipped sum by at most {moved.most:.6f} C (bound 1 + {TOLERANCE:g}). Assumes nothing; finds what a row does to others.",
        f"ε is at least {audit.epsilon_lower_bound:.3f}, whatever the mechanism; a run without noise would have been refuted "
        f"by this bound alone with probability {audit.power_of_bound:.2f}.",
        "Would have been refuted: " + ", ".join(f"{fault} {power:.4f}" for fault, power in audit.power.items()) + ".",
        verdict(audit),
    ]
    return "\n".join(lines)

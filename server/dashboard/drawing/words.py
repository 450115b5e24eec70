"""Texts for states, outcomes and codes on the pages."""

from __future__ import annotations

from markupsafe import Markup

from server.dashboard.drawing.markup import Tone, badge, bar, moment
from server.dashboard.drawing.units import counted, duration
from server.store.rows import RunRow, State

STATES: dict[State, tuple[Tone, str]] = {
    "waiting": ("warn", "Fewer sites are connected than a round needs."),
    "running": ("busy", "Rounds are running."),
    "paused": ("warn", "It was paused by a user; resume it to continue."),
    "finished": ("good", "All rounds are done."),
    "stopped": ("plain", "It was stopped by a user; it can be resumed from its checkpoint."),
    "failed": ("bad", "It ended with an error; it can be resumed from its checkpoint."),
    "died": ("bad", "Its process no longer runs; resume it from its checkpoint."),
    "lost": ("warn", "Its process runs on another machine and has not reported for ten minutes."),
}
OUTCOMES: dict[str, Tone] = {"trained": "good", "late": "warn", "refused": "warn", "failed": "bad"}


def state_badge(run: RunRow) -> Markup:
    tone, meaning = STATES[run.state]
    return Markup('<span title="{}">{}</span>').format(meaning, badge(run.state, tone))


def progress(run: RunRow) -> Markup:
    """Completed rounds, with a bar and the expected end."""
    tone: Tone = "good" if run.state == "finished" else "busy" if run.state == "running" else "warn"
    return Markup("{} of {}{}{}").format(
        run.rounds,
        run.total_rounds,
        bar(run.progress, f"rounds of {run.name}", tone),
        Markup("<small>{}</small>").format(when_done(run)),
    )


def when_done(run: RunRow) -> Markup:
    """The rest of the time, or how long it took."""
    if run.eta_at is not None:
        return Markup("done {}").format(moment(run.eta_at, "ago"))
    return Markup("{}").format(duration(run.seconds) if run.seconds else "")


def clients_of(run: RunRow) -> str:
    """How many clients have answered in the current round."""
    if run.asked is None or not run.active:
        return ""
    return f"{run.answered or 0} of {counted(run.asked, 'client')} answered"

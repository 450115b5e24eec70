"""What the page of a run says in words, figures and tables: pure functions of its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from fedlora.plain_yaml import yaml_text
from fedlora.tasks.metric import LOSS, Metric
from server.dashboard.drawing.markup import Column, Figure, Row, Tone, badge, figures, moment, note, pairs, table
from server.dashboard.drawing.units import counted, duration, epsilon, error, figure, number, saving, size
from server.dashboard.drawing.words import OUTCOMES, STATES, clients_of, progress, state_badge
from server.store.rows import FailureRow, OrderRow, RunDetail, RunRow, RunSiteRow


def heading(run: RunRow) -> Markup:
    return Markup("<h1>{} {}</h1><p>{} · {} · started {} · last seen {}</p>").format(
        run.name, state_badge(run), run.strategy, run.kind, moment(run.started_at), moment(run.last_seen_at, "ago")
    )


def alerts(run: RunRow) -> Markup:
    """Problems that need a person, if there are any."""
    said = Markup("")
    if run.waiting is not None:
        said += Markup(
            '<p class="note warn">Waiting for sites: {} of {} connected; the run stops waiting {}. '
            "Are the sites running? Run <code>fedlora client doctor</code> at each site.</p>"
        ).format(run.waiting.connected, counted(run.waiting.needed, "client"), moment(run.waiting.until, "ago"))
    tone, meaning = STATES[run.state]
    if tone in ("bad", "warn") and run.waiting is None:
        why = f" {run.reason}" if run.reason else ""
        said += note(f"{run.state.capitalize()}. {meaning}{why}", tone)
    if run.insecure:
        said += note(
            "Some noise of this run came from a seed: the ε values below are for tests and are not a guarantee.", "bad"
        )
    return said


def summary(run: RunRow, sites: Sequence[RunSiteRow]) -> Markup:
    missing = [site for site in sites if site.missed_in_a_row]
    unknown = "not measured yet" if run.active else "not measured"
    metric = run.judged_by
    best = f"best {figure(run.best_score, metric)}" if run.best_score is not None else unknown
    loss = [] if metric.name == LOSS.name else [Figure(LOSS.title, figure(run.loss, LOSS), "")]
    return figures(
        [
            Figure("Rounds", progress(run), ""),
            Figure(metric.title, figure(run.score, metric), best),
            *loss,
            Figure(
                "Clients",
                str(len(sites)),
                f"{len(missing)} missed the last round" if missing else clients_of(run) or "none missing",
                "warn" if missing else "plain",
            ),
            Figure("Sent up", size(run.bytes_up), against(run.bytes_up, run.dense_up)),
            Figure("Sent down", size(run.bytes_down), against(run.bytes_down, run.dense_down)),
            Figure("Aggregation error", error(run.aggregation_error_max), "the largest of any round"),
            Figure(
                "Worst ε",
                epsilon(run.epsilon_max),
                "no privacy" if run.epsilon_max is None else "of any site, at most",
                "bad" if run.insecure else "plain",
            ),
        ]
    )


def verdict(standing: str | None, sentences: Sequence[str]) -> Markup:
    """What a finished run's figures mean; nothing while it goes on or where it was never evaluated."""
    tones: dict[str, Tone] = {"better": "good", "no": "warn"}
    tone: Tone = "plain" if standing is None else tones.get(standing.split()[0], "bad")
    return Markup("").join(
        note(sentence, tone if number == 0 else "plain") for number, sentence in enumerate(sentences)
    )


def against(sent: int, dense: int | None) -> str:
    return f"{saving(sent, dense)} than dense" if dense and sent else ""


HINT = "The received adapter, measured on the client's own test examples"


def client_columns(metric: Metric) -> tuple[Column, ...]:
    """The columns of the client table; the loss is a separate one unless it is the task's main metric."""
    scored = () if metric.name == LOSS.name else (Column(metric.title, number=True, hint=HINT),)
    return (
        Column("Client"),
        Column("Last round"),
        Column("Trained", number=True, hint="Rounds in which it trained, of those in which it was asked"),
        *scored,
        Column("Loss (nats)", number=True, hint="" if scored else HINT),
        Column("Round time", number=True, hint="Mean of the rounds in which it trained"),
        Column("Sent up", number=True),
        Column("Received", number=True),
        Column("Last seen"),
    )


def client_table(sites: Sequence[RunSiteRow], metric: Metric) -> Markup:
    return table(
        "Clients of this run",
        client_columns(metric),
        [client_row(site, metric) for site in sites],
        empty="No tasks were sent yet; the first round has not started.",
    )


def client_row(site: RunSiteRow, metric: Metric) -> Row:
    outcome = badge(site.last_outcome, OUTCOMES[site.last_outcome])
    missed = f"missed {counted(site.missed_in_a_row, 'round')} in a row" if site.missed_in_a_row > 1 else ""
    why = " · ".join(part for part in (site.last_code or "", missed) if part)
    cells = (
        site.site,
        outcome + Markup("<small>{}</small>").format(why),
        f"{site.trained} of {site.asked}",
        *(() if metric.name == LOSS.name else (figure(site.score, metric),)),
        number(site.loss),
        duration(site.mean_seconds),
        size(site.bytes_up),
        size(site.bytes_down),
        moment(site.last_seen_at, "ago"),
    )
    return Row(site.site, cells)


FAILURES = (
    Column("Client"),
    Column("Outcome"),
    Column("Reason"),
    Column("Times", number=True),
    Column("Last in round", number=True),
    Column("At"),
)


def failure_table(failures: Sequence[FailureRow]) -> Markup:
    rows = [
        Row(
            f"{row.site} {row.outcome} {row.code}",
            (
                row.site,
                badge(row.outcome, OUTCOMES[row.outcome]),
                row.code,
                str(row.count),
                str(row.last_round),
                moment(row.last_at),
            ),
        )
        for row in failures
    ]
    return table(
        "Why clients did not train", FAILURES, rows, empty="Every client trained in every round in which it was asked."
    )


ORDERS = (Column("Command"), Column("By"), Column("At"), Column("Handled"), Column("Result"))


def order_table(orders: Sequence[OrderRow]) -> Markup:
    rows = [
        Row(
            str(row.id),
            (
                f"{row.action} {row.argument or ''}",
                row.who,
                moment(row.created_at),
                moment(row.handled_at) if row.handled_at else "waiting for the end of the round",
                row.outcome or "",
            ),
        )
        for row in orders
    ]
    return table("Commands to this run", ORDERS, rows, empty="No commands yet.")


def made_with(run: RunRow, detail: RunDetail) -> Markup:
    """Recipe and versions."""
    facts = [("Run", run.run), ("Coordinator", run.coordinator), ("Folder", run.folder)]
    versions = [(name, text) for name, text in detail.versions.items()]
    dense = [("Dense factors of one client", size(detail.dense_bytes))] if detail.dense_bytes else []
    recipe = yaml_text(json.loads(json.dumps(dict(detail.recipe))))
    return pairs([*facts, *dense, *versions]) + Markup(
        '<details><summary>Recipe</summary><pre class="log" tabindex="0">{}</pre></details>'
    ).format(recipe)


def log_of(lines: Sequence[str] | None) -> Markup:
    if lines is None:
        return note(
            "There is no log of this run on this machine: a simulation prints to its terminal, and "
            "the log of a deployed run is on the coordinator's machine."
        )
    if not lines:
        return note("The log is empty.")
    return Markup('<pre class="log" tabindex="0" aria-label="Last lines of the log">{}</pre>').format("\n".join(lines))

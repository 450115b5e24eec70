"""The page of privacy budgets: spent and left for every site, across runs, and when they run out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from server.dashboard.drawing.live import Html, Live
from server.dashboard.drawing.markup import Column, Figure, Row, Tone, badge, bar, figures, link, moment, note, table
from server.dashboard.drawing.units import counted, epsilon, epsilon_left, number
from server.dashboard.pages.shell import page
from server.dashboard.state import AppState
from server.store.privacy import PATIENCE_S, read_privacy, read_receipts
from server.store.privacy_rows import PrivacyRow, ReceiptRow
from server.store.spending import verify_account
from server.store.spent import RunSpentRow, read_spent

NEARLY = 0.8
"""Share of a budget above which it counts as nearly spent."""
RECEIPTS = 50
WAITING = 50

COLUMNS = (
    Column("Site"),
    Column("Dataset"),
    Column(
        "ε spent",
        number=True,
        hint="Upper bound: everything ever charged to the dataset, plus tasks that were sent and not yet confirmed",
    ),
    Column("Budget", number=True, hint="The site's lifetime ε for the dataset, set by the site's policy"),
    Column("Left", number=True),
    Column("Lasts", hint="If rounds continue like the last one, at the current pace"),
    Column("σ", number=True, hint="Noise multiplier of the last round"),
    Column("δ", number=True),
    Column("Adjacency"),
    Column("Ledger"),
)
EMPTY = (
    "No site has sent a receipt yet: nothing was charged. Receipts come with updates of private runs, such as "
    "`fedlora simulate private-fedsvd`."
)


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    ledgers: tuple[PrivacyRow, ...]
    waiting: tuple[RunSpentRow, ...]
    """Of every run and site, where a receipt is missing."""
    receipts: tuple[ReceiptRow, ...]


@dataclass
class Choice:
    """The ledger whose receipts are shown, and what a check of all of them found, by account."""

    ledger: tuple[str, str] | None = None
    checked: dict[int, list[str]] | None = None


async def show(board: AppState, request: Request) -> None:
    choice = Choice()

    def read(connection: Connection, patience_s: float = PATIENCE_S) -> Shown:
        ledgers = tuple(read_privacy(connection, patience_s=patience_s))
        if choice.ledger is None and ledgers:
            choice.ledger = (ledgers[0].site, ledgers[0].dataset)
        waiting = tuple(read_spent(connection, waiting=True, limit=WAITING))
        if choice.ledger is None:
            return Shown(ledgers, waiting, ())
        site, dataset = choice.ledger
        return Shown(ledgers, waiting, tuple(read_receipts(connection, site=site, dataset=dataset, limit=RECEIPTS)))

    async def check() -> None:
        accounts = [row.account for row in live.value.ledgers]
        choice.checked = await board.read(lambda c: {account: verify_account(c, account) for account in accounts})
        await live.again()

    first = await board.read(lambda connection: read(connection, 0.0))  # bounds at once, exact numbers a moment later
    with page(request, "Privacy", here="/privacy"):
        live = Live(board, lambda: board.read(read), first)
        with ui.element("div").classes("heading"):
            Html(
                Markup(
                    "<h1>Privacy</h1><p>Figures that the sites signed, plus the most "
                    "that tasks sent since then can cost.</p>"
                )
            )
            with ui.element("div").classes("actions"):
                ui.button("Check every signature", on_click=check).props("outline")
        live.html(lambda value: alerts(value.ledgers, choice), classes="alert")
        live.html(lambda value: summary(value.ledgers))
        with ui.element("section").classes("card").props('aria-label="Ledgers"'):
            live.html(lambda value: ledger_table(value.ledgers, choice))
        with ui.element("section").classes("card").props('aria-label="Sent, not confirmed"'):
            live.html(lambda value: waiting_table(value.waiting))
        with ui.element("section").classes("card").props('aria-label="Receipts"'):
            Html(Markup("<h2>Receipts</h2>"))
            chooser(live, choice)
            live.html(lambda value: receipt_table(value.receipts))


def chooser(live: Live[Shown], choice: Choice) -> None:
    """Which ledger's receipts are shown."""

    async def changed() -> None:
        choice.ledger = chosen.value
        await live.again()

    def options(value: Shown) -> dict[tuple[str, str], str]:
        return {(row.site, row.dataset): f"{row.site} · {row.dataset}" for row in value.ledgers}

    with ui.element("div").classes("tools"):
        chosen = ui.select(options(live.value), label="Site and dataset", value=choice.ledger, on_change=changed)
        chosen.props("dense outlined")

    def fresh(value: Shown) -> None:
        if options(value) != chosen.options:
            chosen.set_options(options(value), value=choice.ledger)

    live.call(fresh)


def alerts(ledgers: Sequence[PrivacyRow], choice: Choice) -> Markup:
    """Problems that need a person, and the result of the last check of signatures."""
    said = Markup("")
    if insecure := [row for row in ledgers if row.insecure]:
        names = ", ".join(sorted({row.site for row in insecure}))
        said += note(
            f"Insecure noise at {names}: it comes from a seed (`privacy.insecure_seed`), so these ε values are not a "
            "guarantee.",
            "bad",
        )
    if choice.checked is not None:
        problems = [f"{problem} ({row.site})" for row in ledgers for problem in choice.checked.get(row.account, [])]
        said += (
            note("; ".join(problems), "bad")
            if problems
            else note("Every stored receipt is signed and unchanged.", "good")
        )
    return said


def summary(ledgers: Sequence[PrivacyRow]) -> Markup:
    nearly = [row for row in ledgers if share_spent(row) >= NEARLY]
    insecure = sum(row.insecure > 0 for row in ledgers)
    unsigned = sum(not row.sound for row in ledgers)
    worst = max(ledgers, key=share_spent, default=None)
    return figures(
        [
            Figure("Ledgers", str(len(ledgers)), counted(len({row.site for row in ledgers}), "site")),
            Figure(
                "Smallest budget left",
                "–" if worst is None else epsilon_left(worst.left),
                "" if worst is None else f"ε, {worst.site}",
            ),
            Figure("Nearly spent", str(len(nearly)), "80 % or more", "warn" if nearly else "plain"),
            Figure("Insecure", str(insecure), "noise from a seed", "bad" if insecure else "plain"),
            Figure(
                "Not signed",
                str(unsigned),
                "receipts without a valid signature" if unsigned else "all are signed",
                "bad" if unsigned else "plain",
            ),
        ]
    )


def share_spent(row: PrivacyRow) -> float:
    return row.at_most / row.budget if row.budget else 1.0


def ledger_table(ledgers: Sequence[PrivacyRow], choice: Choice) -> Markup:
    return table("Budget spent, by ledger", COLUMNS, [ledger_row(row, choice) for row in ledgers], empty=EMPTY)


def ledger_row(row: PrivacyRow, choice: Choice) -> Row:
    spent = share_spent(row)
    tone: Tone = "bad" if spent >= 1 else "warn" if spent >= NEARLY else "good"
    cells = (
        Markup("{}<small>{}</small>").format(row.site, row.kind),
        row.dataset,
        spent_cell(row, bar(spent, f"share of the budget spent by {row.site}", tone)),
        epsilon(row.budget),
        epsilon_left(row.left),
        lasts(row),
        number(row.noise_multiplier, 4),
        number(row.delta),
        Markup("{}<small>one {} · rate {} · clip {}</small>").format(
            row.adjacency.replace("-", " "), row.unit, number(row.rate), number(row.clip)
        ),
        ledger_state(row, choice),
    )
    return Row(str(row.account), cells, "bad" if row.insecure else "plain")


def spent_cell(row: PrivacyRow, share: Markup) -> Markup:
    """The most that may have been spent; how much of it receipts confirm, where they do not cover all."""
    if not row.unconfirmed:
        return Markup("{}{}").format(epsilon(row.at_most), share)
    sent = f"{epsilon(row.epsilon)} confirmed · {counted(row.unconfirmed, 'task')} sent, not confirmed"
    return Markup("{}{}<small>{}</small>").format(epsilon(row.at_most), share, sent)


def lasts(row: PrivacyRow) -> Markup:
    """Rounds, and the date at the present pace."""
    forecast = row.forecast
    if row.left <= 0:
        return badge("spent", "bad")
    if forecast.rounds_left is None:
        return Markup("more than 100,000 rounds")
    if forecast.rounds_left == 0:
        return badge("no round left", "bad")
    rounds = ("" if forecast.exact else "at least ") + counted(forecast.rounds_left, "round")
    when = Markup(" until {}").format(moment(60 * round(forecast.runs_out_at / 60))) if forecast.runs_out_at else ""
    seen = " · the site has charged more than this coordinator knows" if forecast.complete is False else ""
    return Markup("{}<small>{}{}</small>").format(rounds, when, seen)


def ledger_state(row: PrivacyRow, choice: Choice) -> Markup:
    """Signed, checked, insecure."""
    parts = [badge("insecure noise", "bad")] if row.insecure else []
    if choice.checked is not None and row.account in choice.checked:
        bad = choice.checked[row.account]
        parts.append(badge(f"{counted(len(bad), 'problem')}", "bad") if bad else badge("checked", "good"))
    else:
        parts.append(badge("signed", "good") if row.sound else badge(f"{row.unverified} not signed", "bad"))
    key = f"key {row.key}" if row.key else "no key"
    return Markup(" ").join(parts) + Markup("<small>{} · {}</small>").format(counted(row.receipts, "receipt"), key)


WAITING_COLUMNS = (
    Column("Site"),
    Column("Run"),
    Column("Tasks", number=True, hint="Sent, possibly charged, and not covered by a receipt"),
    Column("ε of the run, at most", number=True, hint="Sent tasks count as charged until a receipt shows less"),
    Column("Confirmed", number=True, hint="By the site's newest receipt of the run"),
)


def waiting_table(rows: Sequence[RunSpentRow]) -> Markup:
    return table(
        "Sent tasks without a receipt",
        WAITING_COLUMNS,
        map(waiting_row, rows),
        empty="All sent tasks are covered by receipts.",
    )


def waiting_row(row: RunSpentRow) -> Row:
    cells = (
        Markup("{}<small>{}</small>").format(row.site, row.kind),
        link(f"/run/{row.run}", row.name),
        str(row.unconfirmed),
        epsilon(row.epsilon),
        epsilon(row.confirmed),
    )
    return Row(f"{row.run} {row.site}", cells, "plain")


RECEIPT_COLUMNS = (
    Column("Entry"),
    Column("At"),
    Column("Run"),
    Column("Round", number=True),
    Column("ε of the run", number=True),
    Column("ε of the dataset", number=True),
    Column("σ", number=True),
    Column("Rate", number=True),
    Column("Steps", number=True),
    Column("Signature"),
)


def receipt_table(receipts: Sequence[ReceiptRow]) -> Markup:
    return table("Receipts, newest first", RECEIPT_COLUMNS, map(receipt_row, receipts), empty="No receipts.")


def receipt_row(row: ReceiptRow) -> Row:
    signed = badge("signed", "good") if row.verified else badge("not signed", "bad")
    cells = (
        Markup("{} <code>{}</code>").format(row.sequence, row.digest[:12]),
        moment(row.at),
        link(f"/run/{row.run}", row.run[:8]),
        str(row.round),
        epsilon(row.epsilon_run),
        epsilon(row.epsilon_lifetime),
        number(row.noise_multiplier, 4),
        number(row.rate),
        str(row.steps),
        signed if row.secure else badge("insecure noise", "bad") + signed,
    )
    return Row(row.digest, cells, "plain" if row.secure else "bad")

"""A run on the terminal: a progress bar, and a table with a line per round."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedlora.tasks.metric import LOSS, Metric
from server.record.records import ClientAnswered, Event, RoundFinished, RoundRecord, RoundStarted, Waiting
from simulations.terminal.pace import Pace

WIDTH = 8
"""Least width of the figure that runs are compared by."""

EVERY_S = 10.0
"""Shortest time between two lines about answers if there is no progress bar; the first and the last of a round are
always printed."""


class Screen:
    """Watches a run's events; use it as a context around the run. `metric`: what the run's task is compared by."""

    def __init__(
        self,
        *,
        rounds: int,
        done: int = 0,
        title: str,
        metric: Metric = LOSS,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric = metric
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
            console=self._console,
            transient=True,
        )
        self._bar = self._progress.add_task(title, total=rounds, completed=done, now="")
        self._pace = Pace(rounds=rounds - done, clock=clock)
        self._clock, self._told_at = clock, 0.0
        self._asked = self._answered = 0
        self._header_shown = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Waiting):
            now = f"waiting for clients: {event.connected} of {event.needed}, {event.seconds_left:.0f} s left"
        elif isinstance(event, RoundStarted):
            self._asked, self._answered = event.asked, 0
            self._pace.started()
            self._tell(f"round {event.round} started: {event.asked} clients are asked")
            now = f"0/{event.asked} clients"
        elif isinstance(event, ClientAnswered):
            self._answered += 1
            self._pace.answered(self._answered / self._asked)
            now = f"{self._answered}/{self._asked} clients"
            if self._answered in (1, self._asked) or self._clock() - self._told_at >= EVERY_S:
                said = f"{self._answered} of {self._asked} clients answered"
                self._tell(", ".join(filter(None, (said, self._pace.to_go))))
        elif isinstance(event, RoundFinished):
            self._show_round(event)
            self._progress.advance(self._bar)
            self._pace.finished()
            now = ""
        else:
            return
        self._progress.update(self._bar, now=", ".join(filter(None, (now, self._pace.to_go))))

    def _tell(self, what: str) -> None:
        """A line about the first round, if there is no progress bar: the table's first line may be minutes away."""
        if not self._header_shown and (self._console.is_dumb_terminal or not self._console.is_terminal):
            self._console.print(what, highlight=False)
            self._told_at = self._clock()

    def _show_round(self, event: RoundFinished) -> None:
        if not self._header_shown:
            self._console.print(header(self._metric), style="bold", highlight=False)
            self._header_shown = True
        self._console.print(line(event.record, self._metric), highlight=False, markup=False)  # names are from data


def header(metric: Metric) -> str:
    return f"round  {figures(metric, metric.words, LOSS.words)}    clients  agg. error    MB up  MB down       s"


def figures(metric: Metric, score: str, loss: str) -> str:
    """Two columns; one where the loss is what runs are compared by."""
    scored = "" if metric.name == LOSS.name else f"{score:>{max(WIDTH, len(metric.words))}}  "
    return f"{scored}{loss:>6}"


def line(record: RoundRecord, metric: Metric) -> str:
    """One round as a line of the table; who did not train, or not in every step, follows with the reason."""
    quality = record.evaluation
    score, loss = (f"{quality.value(metric.name):.4f}", f"{quality.loss:.4f}") if quality else ("-", "-")
    error = "-" if record.aggregation_error is None else f"{record.aggregation_error:.1e}"
    clients = f"{record.count('trained'):>4}/{len(record.clients):<4}"
    traffic = f"{record.bytes_up / 1e6:>7.2f}  {record.bytes_down / 1e6:>7.2f}"
    told = f"{record.round:>5}  {figures(metric, score, loss)}"
    text = f"{told}  {clients}  {error:>10}  {traffic}  {record.seconds:>6.1f}"
    missing = {f"{c.client} {c.outcome}: {c.code}" for c in record.clients if c.outcome != "trained"}
    skipped = {f"{c.client} skipped {c.skipped_steps} steps: not finite" for c in record.clients if c.skipped_steps}
    return text + "".join(f"\n         {reason}" for reason in sorted(missing | skipped))

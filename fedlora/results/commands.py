"""`fedlora predict`, `fedlora eval`, `fedlora chat`: a run's result, or an adapter's folder, put to use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fedlora.exports.source import Source as Adapter
    from fedlora.results.given import Naming
    from fedlora.results.opened import Opened

Place = Annotated[Path, typer.Argument(help="A run's folder, or an adapter's that was carried here.")]
Source = Annotated[
    str, typer.Argument(help="CSV, TSV, JSON, JSONL or Parquet, a folder of such files, or images; as for training.")
]
BasePlace = Annotated[
    str | None,
    typer.Option("--base", help="Where the base model is on this machine, as model.id takes it, if not where it was."),
]
Column = Annotated[
    list[str] | None,
    typer.Option(help="text=NAME: what the file calls a column; may be repeated. As the run's recipe when not given."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="What the rows look like, as data.format has it; by the columns when not given."),
]
Device = Annotated[str | None, typer.Option(help="Where this machine computes: cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no last line.")]


def predict(
    run: Place,
    file: Source,
    out: Annotated[Path | None, typer.Option(help="File to write, .csv or .jsonl; stdout when not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines instead of CSV.")] = False,
    with_input: Annotated[bool, typer.Option("--with-input", help="Put what was asked before each answer.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer that is written.")] = 100,
    column: Column = None,
    form: Format = None,
    base: BasePlace = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Answer every row of FILE: its class with probabilities, a written answer, or which of two answers is preferred.

    One line a row, in the file's order. Columns with the right answers are not needed, and not looked at.
    """
    from fedlora.results.given import asked_rows
    from fedlora.results.predicting import predicted
    from fedlora.results.registry import results_of
    from fedlora.results.writing import ERROR, kind_of, lines_in, new_file

    kind = kind_of(out, as_json=as_json)
    with new_file(out) if out else nullcontext(sys.stdout) as lines, working(quiet) as (bar, task):
        opened = opened_from(run, base, device)
        results = results_of(opened.on.task)
        naming = naming_of(opened, column, form)
        given = asked_rows(file, naming, results, stand_in=next(iter(opened.labels), ""))
        bar.update(task, total=len(given), description="answering")
        failed = 0
        with lines_in(lines, kind) as write:
            for line in predicted(opened, given, results, most_tokens=max_tokens, with_input=with_input):
                write(line)
                failed += ERROR in line
                bar.advance(task)
    if not quiet:
        unanswered = f"; without an answer: {failed}, and why stands under `{ERROR}`" if failed else ""
        typer.echo(f"Rows: {len(given)}{f', written to {out}' if out else ''}{unanswered}.", err=True)


def evaluate(
    run: Place,
    file: Source,
    out: Annotated[Path | None, typer.Option(help="File to write the figures to, as --json prints them.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON; of language models in lm-evaluation-harness' layout."),
    ] = False,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Measure the base as well (twice the time), and the difference.")
    ] = False,
    client_column: Annotated[
        str | None, typer.Option(help="Column that says whose a row is; the recipe's when not given.")
    ] = None,
    column: Column = None,
    form: Format = None,
    base: BasePlace = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Measure the result of RUN on the rows of FILE: its metrics with standard errors, by class and client."""
    from fedlora.results.given import client_column as found_column
    from fedlora.results.given import whole_rows
    from fedlora.results.judging.evaluation import evaluated
    from fedlora.results.judging.harness import harness
    from fedlora.results.judging.shown import said
    from fedlora.results.registry import results_of
    from fedlora.results.writing import new_file

    with new_file(out) if out else nullcontext(sys.stdout) as lines:
        with working(quiet) as (bar, task):
            opened = opened_from(run, base, device)
            results, naming = results_of(opened.on.task), naming_of(opened, column, form)
            given = whole_rows(file, naming, results, client=found_column(file, naming, asked=client_column))
            bar.update(task, total=len(given) * (2 if with_base else 1), description="measuring")
            found = evaluated(opened, given, results, with_base=with_base, seen=lambda rows: bar.advance(task, rows))
        written = opened.source.about.usage.language_servers
        content = harness(opened, found, name=Path(file).stem) if written else found.as_json()
        if out or as_json:
            lines.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if not as_json:
        typer.echo(said(found))


def chat(
    run: Place,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 200,
    system: Annotated[str | None, typer.Option(help="What the conversation begins with, for the model alone.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="The adapted model only, without its base.")] = False,
    base: BasePlace = None,
    device: Device = None,
) -> None:
    """Talk to the result of RUN and to its base, side by side. A line is a question; Ctrl-D or Ctrl-C ends it."""
    from fedlora.results.writes.chat import talk

    try:
        talk(opened_from(run, base, device), max_tokens=max_tokens, system=system, alone=alone)
    except KeyboardInterrupt:
        typer.echo()


@contextmanager
def working(quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on stderr while something is computed, where a person looks at it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield bar, bar.add_task("loading the model", total=None)


def opened_from(run: Path, base: str | None, device: str | None) -> Opened:
    from fedlora.results.opened import open_result

    return open_result(run, base=base, device=device)


def naming_of(opened: Opened, column: list[str] | None, form: str | None) -> Naming:
    return naming_from(opened.source, column, form)


def naming_from(source: Adapter, column: list[str] | None, form: str | None) -> Naming:
    """SettingsError for a --column that is no pair."""
    from fedlora.results.given import Naming

    pairs = [one.partition("=") for one in column or ()]
    for given, (name, _, value) in zip(column or (), pairs, strict=True):
        if not (name and value):
            raise SettingsError(f"--column {given}: write it as text=NAME, the task's column and the file's.")
    recipe = source.recipe
    renamed = {name: value for name, _, value in pairs}
    return Naming.of(recipe.data if recipe else None, source.model.task, renamed=renamed, form=form)

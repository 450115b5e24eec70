"""Findings of a doctor: each check reports a state and, if there is a problem, a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fedlora.settings import SettingsError

Grade = Literal["good", "doubtful", "bad"]


@dataclass(frozen=True)
class Finding:
    """One check's result. `remedy` is a command or a sentence; empty when there is nothing to do."""

    check: str
    grade: Grade
    said: str
    remedy: str = ""


Check = Callable[[], Finding]


def good(check: str, said: str) -> Finding:
    return Finding(check, "good", said)


def doubtful(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, "doubtful", said, remedy)


def bad(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, "bad", said, remedy)


def examine_all(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """Every check's finding; one that breaks is itself a finding, and does not hide the others."""
    found = []
    for name, check in checks:
        try:
            found.append(check())
        except SettingsError as error:
            found.append(bad(name, str(error), "Correct this setting."))
        except Exception as error:
            found.append(bad(name, f"the check failed: {type(error).__name__}: {error}", "Please report this message."))
    return found


def report(findings: Iterable[Finding], console: Console, *, as_json: bool) -> int:
    """Print the findings; 1 if any is bad, else 0: the exit status."""
    listed = list(findings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in listed], indent=2))
    else:
        table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        colour = {"good": "green", "doubtful": "yellow", "bad": "red"}
        for finding in listed:
            table.add_row(Text(finding.grade, style=colour[finding.grade]), finding.check, Text(finding.said))
            if finding.remedy:
                table.add_row("", "", Text(f"→ {finding.remedy}", style="bold"))
        console.print(table)
    return int(any(finding.grade == "bad" for finding in listed))

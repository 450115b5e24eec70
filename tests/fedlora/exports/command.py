"""`fedlora export`, as a person types it."""

from __future__ import annotations

from typer.testing import CliRunner

from fedlora.cli import app


def export(*words: object) -> str:
    """What it prints; what it raises is raised here."""
    answer = CliRunner().invoke(app, ["export", *map(str, words)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output

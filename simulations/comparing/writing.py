"""comparison.csv, comparison.md and comparison.png."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedlora.privacy.shown import at_most
from fedlora.tasks.metric import LOSS
from server.record.lines import read_records
from simulations.comparing.finished import finished, told_apart
from simulations.comparing.rows import Row, all_rows, best_rows
from simulations.terminal.pictures import draw_comparison


def cells(row: Row) -> dict[str, str]:
    """A row as text, by column. The loss has one of its own where it is not what runs are compared by."""
    error = "-" if row.aggregation_error_max is None else f"{row.aggregation_error_max:.1e}"
    score = f"{row.score:.4f}" + (f" ± {row.spread:.4f}" if row.seeds > 1 else "")
    epsilon = "-" if row.epsilon is None else at_most(row.epsilon)
    loss = {} if row.metric.name == LOSS.name else {LOSS.words: f"{row.loss:.4f}"}
    return {
        "method": row.method, "setting": row.settings or "-", "seeds": str(row.seeds), row.metric.words: score,
        "verdict": row.standing or "-", **loss, "agg. error": error, "MB up": f"{row.megabytes_up:.2f}",
        "MB down": f"{row.megabytes_down:.2f}", "ε": epsilon, "s": f"{row.seconds:.0f}",
    }  # fmt: skip


def compared(folders: Iterable[Path], out: Path) -> tuple[Mapping[str, str], ...]:
    """Finished runs side by side in `out`; the table's rows."""
    runs = told_apart([finished(folder) for folder in folders])
    rows, everything = best_rows(runs), all_rows(runs)
    write_outputs(rows, everything, out)
    return tuple(cells(row) for row in rows)


def write_outputs(rows: Sequence[Row], everything: Sequence[Row], out: Path) -> None:
    """comparison.csv (every setting), comparison.md (the best of each method), comparison.png."""
    out.mkdir(parents=True, exist_ok=True)
    columns = list(cells(rows[0]))
    with (out / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(cells(row) for row in everything)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cells(row).values()) + " |" for row in rows]
    (out / "comparison.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    curves = {
        row.method: [list(read_records(run.folder)) for run in row.runs if (run.folder / "rounds.jsonl").exists()]
        for row in rows
    }
    drawn = {name: found for name, found in curves.items() if found}
    draw_comparison(drawn, rows[0].metric, out / "comparison.png")

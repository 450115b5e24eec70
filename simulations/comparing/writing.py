"""A comparison's files.

comparison.csv           a row a run, in numbers
comparison_rounds.csv    a row a run and round
comparison.md, .tex      the best setting of each method; methods in pairs; settings side by side
comparison.png           quality against rounds, bytes and seconds
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from server.record.lines import read_records
from simulations.comparing.finished import finished, told_apart
from simulations.comparing.long_form import round_rows, run_rows, write_csv
from simulations.comparing.paired import LEAST_SEEDS, pairs
from simulations.comparing.rows import Row, all_rows, best_rows
from simulations.comparing.tables import cells, latex, markdown, pair_cells, side_by_side
from simulations.terminal.pictures import draw_comparison

NOTES = """± is the sample standard deviation over seeds; `test set` is the standard error of one run's score, what
another test set of as many examples would have changed. The setting of a method was chosen by the reported score.
"""
PAIRS = """In pairs: the method's score less the other's, on the same examples and seeds. `other examples`: 95 % of a
paired bootstrap over the test set, these trained models; `other seeds`: the t interval of the seeds' differences.
Better or worse only where both say so; intervals are not corrected for the number of pairs.
"""


def compared(folders: Iterable[Path], out: Path) -> tuple[Mapping[str, str], ...]:
    """Finished runs side by side in `out`; the table's rows."""
    runs = told_apart([finished(folder) for folder in folders])
    rows, everything = best_rows(runs), all_rows(runs)
    write_outputs(rows, everything, out)
    return tuple(cells(row) for row in rows)


def write_outputs(rows: Sequence[Row], everything: Sequence[Row], out: Path) -> None:
    """`rows`: the best setting of each method; `everything`: all of them."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for row in everything for run in row.runs]
    write_csv(run_rows(runs), out / "comparison.csv")
    write_csv(round_rows(runs), out / "comparison_rounds.csv")
    table = [cells(row) for row in rows]
    in_pairs = [pair_cells(pair, rows[0].metric) for pair in pairs(rows)]
    settings = side_by_side(rows) if len(rows) > 1 else []
    parts = [markdown(table), NOTES]
    parts += [markdown(in_pairs), PAIRS] if in_pairs else []
    parts += [few(rows)] if few(rows) else []
    parts += [markdown(settings)] if settings else []
    (out / "comparison.md").write_text("\n".join(parts), encoding="utf-8")
    tex = "\n".join(latex(part) for part in (table, in_pairs, settings) if part)
    (out / "comparison.tex").write_text("% needs \\usepackage{booktabs}\n" + tex, encoding="utf-8")
    draw(rows, out / "comparison.png")


def few(rows: Sequence[Row]) -> str:
    """What a comparison of too few seeds says."""
    least = min(row.seeds for row in rows)
    if least >= LEAST_SEEDS:
        return ""
    return f"{'One seed says' if least == 1 else 'Two seeds say'} nothing of a difference: --repeat 0,1,2,3,4.\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Methods with rounds as curves; those of several federations (mode `alone`) and guessing as levels."""
    curves, levels = {}, {}
    for row in rows:
        seeds = [list(read_records(run.folder)) for run in row.runs if (run.folder / "rounds.jsonl").exists()]
        if seeds:
            curves[row.method] = seeds
        else:
            levels[row.method] = row.score
    guessed = [run.summary["majority"] for row in rows for run in row.runs if run.summary.get("majority") is not None]
    if guessed:
        levels["guessing"] = fmean(guessed)
    draw_comparison(curves, rows[0].metric, path, levels=levels)

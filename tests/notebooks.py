"""Notebooks as tests run them: every code cell in one namespace, with what it prints and what its last line shows.

`python -m tests.notebooks docs/first_run.ipynb` writes what came out into the file. No kernel is needed: Jupyter's own
runner would bring twenty packages, a compiled debugger and sockets among them.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

Output = dict[str, Any]


def run(notebook: Path) -> list[list[Output]]:
    """The outputs of every code cell, as the file format has them. Whatever a cell raises, this raises."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    return [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]


def run_cell(code: str, names: dict[str, Any]) -> list[Output]:
    tree, printed = ast.parse(code), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 - of our own notebook
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307
    said = [{"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())}] if printed.tell() else []
    return said if value is None else [*said, shown(value)]


def shown(value: object) -> Output:
    """What a notebook shows of a value: its picture or table where it has one, and its text."""
    data: dict[str, Any] = {"text/plain": lines(repr(value))}
    if (picture := getattr(value, "_repr_png_", None)) is not None:
        data["image/png"] = base64.b64encode(picture()).decode()
    if (table := getattr(value, "_repr_markdown_", None)) is not None:
        data["text/markdown"] = lines(table())
    return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Write the outputs into the file."""
    path = Path(sys.argv[1])
    content, found = json.loads(path.read_text(encoding="utf-8")), iter(run(path))
    for number, cell in enumerate((cell for cell in content["cells"] if cell["cell_type"] == "code"), start=1):
        cell |= {"outputs": next(found), "execution_count": number}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

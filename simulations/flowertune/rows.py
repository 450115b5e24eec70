"""Rows of instructions and answers in one of our formats: as FlowerTune's apps write them, or as the model's own chat.

faithful   prompt-completion: Alpaca's text around the instruction, and the answer behind it
fixed      messages: the model's own chat template is written around both
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

from fedlora.data.rows import files_of
from fedlora.data.tables.reading import read_table
from fedlora.files import write_atomically
from fedlora.settings import SettingsError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
    "### Instruction:\n{question}\n### Response:"
)
QUESTIONS, MORE = ("instruction", "question", "prompt", "input"), ("input", "context")
ANSWERS = ("response", "output", "answer", "completion")


def write_rows(source: str, out: Path, *, faithful: bool) -> int:
    """Write the rows of `source`, as JSON Lines; how many. SettingsError where it has no such columns."""
    lines = [json.dumps(row_of(*pair, faithful=faithful), ensure_ascii=False) for pair in pairs_in(source)]
    if not lines:
        raise SettingsError(f"{source} has no row with a question and an answer.")
    write_atomically(out, ("\n".join(lines) + "\n").encode())
    return len(lines)


def row_of(question: str, answer: str, *, faithful: bool) -> dict[str, object]:
    if faithful:
        return {"prompt": ALPACA.format(question=question), "completion": f" {answer}"}
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pairs_in(source: str) -> Iterator[tuple[str, str]]:
    """Question and answer of every row; what stands in a second column of the question is below it."""
    for path in files_of(source):
        names = read_table(path, []).names
        question, answer = first(QUESTIONS, names, path), first(ANSWERS, names, path)
        more = next((name for name in MORE if name in names and name != question), None)
        below = read_table(path, [more]).rows if more else repeat(None)
        for row, context in zip(read_table(path, [question, answer]).rows, below, strict=False):
            if isinstance(row, tuple):
                also = f"\n{context[0]!s}" if isinstance(context, tuple) else ""
                yield f"{row[0]!s}{also}", str(row[1])


def first(known: Sequence[str], names: Sequence[str], path: Path) -> str:
    for name in known:
        if name in names:
            return name
    raise SettingsError(
        f"{path} has the columns {', '.join(names)}, and none of: {', '.join(known)}. Rename one of them."
    )

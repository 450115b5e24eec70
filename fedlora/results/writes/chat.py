"""A conversation with a fine-tuned language model, its base beside it: both hear the same, each remembers its words.

On a terminal the two answers grow side by side, a token of one and a token of the other. Through a pipe each is printed
under its name as it comes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedlora.results.opened import Opened
from fedlora.results.writes.greedy import greedy, pieces
from fedlora.results.writes.prompts import conversation, plain, require_writing, room_for
from fedlora.tasks.answering.ending import ends_of

PROMPT = "> "

Turn = dict[str, Any]


@dataclass
class Speaker:
    """One of the two models, and what was said between it and the person."""

    name: str
    opened: Opened
    base: bool
    most: int
    before: list[Turn] = field(default_factory=list)
    """What every conversation begins with."""
    turns: list[Turn] = field(default_factory=list)

    def hears(self, line: str) -> Iterator[str]:
        """Its answer, piece by piece, which it remembers as far as it was taken. ValueError for a line that is too long
        for the model; of what was said before, the oldest is forgotten where there is no room for all."""
        tokenizer = self.opened.base.processor
        ends = ends_of(self.opened.model, tokenizer)
        prompt, room = self.prompt(line)
        tokens = greedy(
            self.opened.model, prompt, on=self.opened.on, ends=ends, most=min(room, self.most), base=self.base
        )
        kept = (token for token in tokens if token not in ends)
        said = []
        for piece in pieces(kept, tokenizer):
            said.append(piece)
            yield piece
        self.turns += [{"role": "user", "content": line}, {"role": "assistant", "content": "".join(said)}]

    def prompt(self, line: str) -> tuple[list[int], int]:
        """With as much of what was said before as leaves room for an answer; without a template, the line alone."""
        tokenizer = self.opened.base.processor
        if not tokenizer.chat_template:
            ids = plain(line, tokenizer)
            return ids, room_for(self.opened.model, ids, most=self.most)
        while True:
            ids = conversation([*self.before, *self.turns, {"role": "user", "content": line}], tokenizer)
            try:
                room = room_for(self.opened.model, ids, most=self.most)
            except ValueError:
                if not self.turns:
                    raise
                room = 0
            if room >= self.most or (room and not self.turns):
                return ids, room
            self.turns = self.turns[2:]


def talk(opened: Opened, *, max_tokens: int, system: str | None, alone: bool) -> None:
    """Until there is no further line. SettingsError for a model that writes no answers."""
    require_writing(opened.model, opened.on.task)
    before = [{"role": "system", "content": system}] if system else []
    speakers = [Speaker("adapted", opened, False, max_tokens, before)]
    if not alone:
        speakers.insert(0, Speaker("base", opened, True, max_tokens, before))
    console = Console()
    live = console.is_terminal and sys.stdin.isatty()
    while (line := next_line(live)) is not None:
        if not line.strip():
            continue
        try:
            side_by_side(speakers, line, console) if live else one_by_one(speakers, line)
        except ValueError as error:
            print(f"(not answered: {error})", flush=True)


def next_line(live: bool) -> str | None:
    """None at the end."""
    try:
        return input(PROMPT if live else "")
    except EOFError:
        return None


def one_by_one(speakers: list[Speaker], line: str) -> None:
    """Each under its name."""
    for speaker in speakers:
        print(f"{speaker.name}: ", end="", flush=True)
        for piece in speaker.hears(line):
            print(piece, end="", flush=True)
        print(flush=True)


def side_by_side(speakers: list[Speaker], line: str, console: Console) -> None:
    """A column each; the last picture stays."""
    said = ["" for _ in speakers]
    with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live:
        for together in zip_longest(*(speaker.hears(line) for speaker in speakers), fillvalue=""):
            said = [before + piece for before, piece in zip(said, together, strict=True)]
            live.update(columns(speakers, said))


def columns(speakers: list[Speaker], said: list[str]) -> Table:
    found = Table(expand=True)
    for speaker in speakers:
        found.add_column(speaker.name, ratio=1)
    found.add_row(*(Text(text) for text in said))
    return found

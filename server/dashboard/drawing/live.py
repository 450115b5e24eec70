"""Pages that follow the store: they read it periodically and send the browser only the parts that have changed.

A page gives one function that reads what it shows (a frozen value), and its parts as functions of that value. Values
that compare equal cost nothing; HTML is compared again in the browser, node by node (drawn.js, by Vue).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from markupsafe import Markup
from nicegui import Client, ui
from nicegui.element import Element
from sqlalchemy.exc import SQLAlchemyError

from fedlora.settings import SettingsError
from server.dashboard.drawing.markup import note
from server.dashboard.state import AppState

log = logging.getLogger("fedlora.dashboard")
V = TypeVar("V")
Chart = dict[str, Any]


class Html(Element, component=Path(__file__).parent / "drawn.js"):  # type: ignore[misc, call-arg]  # not followed
    """HTML that changes in place. Its text must be Markup: what came from outside is escaped already."""

    def __init__(self, content: Markup, *, tag: str = "div", classes: str = "") -> None:
        super().__init__()
        self._props["tag"] = tag
        self._props["html"] = str(content)
        self.classes(classes)

    def show(self, content: Markup) -> None:
        if self._props["html"] != str(content):
            self._props["html"] = str(content)
            self.update()


class Live(Generic[V]):
    """The moving parts of one open page."""

    def __init__(self, board: AppState, read: Callable[[], Awaitable[V]], first: V) -> None:
        self.value = first
        self._board = board
        self._read = read
        self._updates: list[Callable[[V], None]] = []
        self._client: Client = ui.context.client
        self._problem = Html(Markup(""), classes="problem-place")
        self._trouble: str | None = None
        self._busy = False
        ui.timer(board.every_s, self._tick)

    def html(self, view: Callable[[V], Markup], *, tag: str = "div", classes: str = "") -> Html:
        """A part that is HTML."""
        element = Html(view(self.value), tag=tag, classes=classes)
        self.call(lambda value: element.show(view(value)))
        return element

    def chart(self, view: Callable[[V], Chart], *, label: str, classes: str = "chart") -> None:
        """A part that is a chart; `label` is what a screen reader says of it."""
        shown = view(self.value)
        element = ui.echart(shown, renderer="svg").classes(classes).props(f'role="img" aria-label="{label}"')

        def update(value: V) -> None:
            nonlocal shown
            wanted = view(value)
            if wanted != shown:
                shown = wanted
                element.options.clear()
                element.options.update(wanted)
                element.update()

        self.call(update)

    def call(self, update: Callable[[V], None]) -> None:
        """Call `update` with every new value."""
        self._updates.append(update)

    async def refresh(self) -> None:
        """Read the store now, and send the parts that have changed."""
        try:
            value = await self._read()
        except (SettingsError, SQLAlchemyError) as error:
            if self._trouble is None:
                self._trouble = str(error).splitlines()[0]
                log.warning("a page could not read the store", extra={"why": self._trouble})
                since = time.strftime("%H:%M:%S UTC", time.gmtime())
                self._problem.show(
                    note(f"This page shows the state of {since}; the store cannot be read: {self._trouble}", "bad")
                )
            return
        if self._trouble is not None:
            self._trouble = None
            self._problem.show(Markup(""))
        if value != self.value:
            self._show(value)

    async def again(self) -> None:
        """Read the store now, and send every part again: the user has made a choice that changes them."""
        self._show(await self._read())

    def _show(self, value: V) -> None:
        self.value = value
        for update in self._updates:
            update(value)

    async def _tick(self) -> None:
        if self._busy:
            return
        if self._board.doors.principal(self._client.request.headers)[0] is None:
            ui.navigate.to("/login")
            return
        self._busy = True
        try:
            await self.refresh()
        finally:
            self._busy = False

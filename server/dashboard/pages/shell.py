"""The frame of every page: navigation, user, and light or dark colours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from markupsafe import Markup
from nicegui import ui

from server.dashboard.doors.access import Principal
from server.dashboard.drawing.live import Html
from server.dashboard.drawing.theme import Palette, palette

PAGES = (("/", "Runs"), ("/privacy", "Privacy"), ("/sites", "Sites"), ("/events", "Events"))
SCHEME = "fedlora-scheme"
HEAD = (
    '<meta name="robots" content="noindex"><meta name="fedlora-scheme" content="{scheme}">'
    '<link rel="stylesheet" href="/assets/fedlora.css">'
    '<script src="/assets/fedlora.js"></script>'
)


@dataclass(frozen=True)
class PageContext:
    """One visit to a page: the user, and the colours."""

    principal: Principal
    colours: Palette


@contextmanager
def page(request: Request, title: str, *, here: str) -> Iterator[PageContext]:
    """Within: the main part of the page `title`; `here` is its place in the navigation."""
    dark = request.cookies.get(SCHEME) == "dark"
    principal: Principal = request.state.principal
    ui.page_title(f"{title} · fedlora")
    ui.add_head_html(HEAD.format(scheme="dark" if dark else "light"))
    ui.dark_mode(dark)
    ui.colors(primary="#7177f4" if dark else "#4f46e5", negative="#d64545" if dark else "#c02626", positive="#00795b")
    Html(Markup('<a class="skip" href="#content">Skip to the content</a>'))
    with ui.element("div").classes("frame"):
        session = request.state.session
        Html(navigation(here, principal, session.csrf if session else ""), tag="header", classes="top")
        with ui.element("div").props('id="content" tabindex="-1"'):
            yield PageContext(principal, palette(dark=dark))


def navigation(here: str, principal: Principal, csrf: str) -> Markup:
    links = [
        Markup('<a href="{}"{}>{}</a>').format(target, Markup(' aria-current="page"') if target == here else "", name)
        for target, name in PAGES
    ]
    return Markup(
        '<a class="home" href="/"><img src="/assets/icon.svg" alt="" width="26" height="26"><span>fedlora</span></a>'
        '<nav aria-label="Pages">{links}</nav>'
        '<div class="who"><span title="{role}">{name}<small>{role}</small></span>'
        '<button type="button" class="quiet" id="scheme" aria-label="Light or dark" title="Light or dark">◐</button>'
        '<form method="post" action="/logout"><input type="hidden" name="csrf" value="{csrf}">'
        '<button class="quiet">Log out</button></form></div>'
    ).format(links=Markup("").join(links), name=principal.name, role=principal.role.value, csrf=csrf)

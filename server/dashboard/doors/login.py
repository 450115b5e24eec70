"""/login, /enter (the link that the terminal prints) and /logout: plain forms that work without a script."""

from __future__ import annotations

import asyncio
import math
import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader

from server.dashboard.doors.gate import Auth

PAGES = Environment(loader=FileSystemLoader(Path(__file__).parents[1] / "assets"), autoescape=True)
FORM_COOKIE = "fedlora-form"
FORM_S = 3600
AT_ONCE = 2
"""Passwords that are checked at the same time, 32 MiB each; the others wait."""


def login_routes(doors: Auth) -> APIRouter:
    """The three, for this dashboard's doors."""
    router = APIRouter(include_in_schema=False)
    checking = asyncio.Semaphore(AT_ONCE)

    @router.get("/login")
    def ask(request: Request, next: str = "/") -> Response:
        if request.state.principal is not None:
            return RedirectResponse(local(next), 303)
        return form(doors, next)

    @router.post("/login")
    async def log_in(
        request: Request,
        user: Annotated[str, Form(max_length=100)],
        password: Annotated[str, Form(max_length=1000)],
        form_token: Annotated[str, Form(max_length=100)] = "",
        next: Annotated[str, Form(max_length=2000)] = "/",
    ) -> Response:
        sent = request.cookies.get(FORM_COOKIE, "")
        if not sent or not secrets.compare_digest(sent.encode(), form_token.encode()):
            return form(doors, next, user=user, problem="The form has expired. Try again.", status=403)
        address = request.client.host if request.client else "unknown"
        if wait_s := doors.limit.wait_s(address, user):
            return too_many(doors, next, wait_s)
        async with checking:
            if wait_s := doors.limit.wait_s(address, user):  # others from the same address were ahead in the queue
                return too_many(doors, next, wait_s)
            principal = await asyncio.to_thread(doors.access.by_password, user, password)
            if principal is None:
                doors.limit.failed(address, user)
        if principal is None:
            await asyncio.to_thread(doors.audit, "unknown", "login-refused", {"user": user, "address": address})
            return form(doors, next, user=user, problem="Wrong user name or password.", status=401)
        doors.limit.succeeded(address, user)
        await asyncio.to_thread(doors.audit, principal.name, "login", {"address": address})
        return enter(doors, doors.sessions.open(user, doors.access.stamp(user)), local(next))

    @router.get("/enter")
    def follow_link(link: str = "") -> Response:
        if not doors.sessions.redeem(link):
            return form(
                doors, "/", problem="This link was already used, or belongs to an earlier start of the dashboard."
            )
        doors.audit("terminal", "login", {})
        return enter(doors, doors.sessions.open(None), "/")

    @router.post("/logout")
    def log_out(request: Request, csrf: Annotated[str, Form()] = "") -> Response:
        secret, session = doors.session_secret(request.headers), request.state.session
        if session is None or secret is None or not secrets.compare_digest(session.csrf.encode(), csrf.encode()):
            return Response("The form has expired. Go back and try again.", 403, media_type="text/plain")
        doors.sessions.close(secret)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(doors.cookie, secure=doors.tls, httponly=True, samesite="lax")
        return answer

    return router


def local(target: str) -> str:
    """`target` if it is a page of this dashboard, else the first page."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if inside else "/"


def enter(doors: Auth, secret: str, target: str) -> Response:
    """Give the browser its new session."""
    answer = RedirectResponse(target, 303)
    answer.set_cookie(doors.cookie, secret, secure=doors.tls, httponly=True, samesite="lax")
    answer.delete_cookie(FORM_COOKIE)
    return answer


def too_many(doors: Auth, target: str, wait_s: float) -> Response:
    minutes = math.ceil(wait_s / 60)
    problem = f"Too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}."
    answer = form(doors, target, problem=problem, status=429)
    answer.headers["Retry-After"] = str(math.ceil(wait_s))
    return answer


def form(doors: Auth, target: str, *, user: str = "", problem: str = "", status: int = 200) -> Response:
    token = secrets.token_urlsafe(32)
    page = PAGES.get_template("login.html")
    users = doors.access.now().users
    text = page.render(next=local(target), form_token=token, user=user, problem=problem, users=users)
    answer = HTMLResponse(text, status)
    answer.set_cookie(FORM_COOKIE, token, max_age=FORM_S, secure=doors.tls, httponly=True, samesite="strict")
    return answer

"""Commands in the store: written by users, carried out by the run's loop. A row is never changed, only answered.

What is in force is read from all orders of a run, in order: the last of pause and resume, every exclude without a later
include, and a stop that nobody has obeyed yet. So it survives the loop's process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, desc, select, update

from fedlora.settings import SettingsError
from server.store.audit import append_event
from server.store.former import RENAMED
from server.store.rows import OrderRow
from server.store.tables import orders, runs

Verb = Literal["pause", "resume", "stop", "stop-now", "exclude", "include", "export"]
STOPS = ("stop", "stop-now")
NEED_A_SITE = ("exclude", "include")


@dataclass(frozen=True)
class InForce:
    """Commands in force, for the loop."""

    pause: OrderRow | None = None
    stop: OrderRow | None = None
    excluded: frozenset[str] = frozenset()
    exports: tuple[OrderRow, ...] = ()
    news: tuple[OrderRow, ...] = ()
    """Commands without an answer, including those above."""


def place_order(
    connection: Connection, run_id: int, verb: str, *, who: str, at: float, argument: str | None = None
) -> OrderRow:
    """Write a command to a run, and an audit log entry. SettingsError for an unknown command."""
    if verb not in get_args(Verb):
        raise SettingsError(f"unknown command {verb!r}; known commands: {', '.join(get_args(Verb))}.")
    if (verb in NEED_A_SITE) != (argument is not None):
        raise SettingsError(
            f"{verb} needs the name of a site." if verb in NEED_A_SITE else f"{verb} does not take a site."
        )
    run = connection.execute(select(runs.c.run).where(runs.c.id == run_id)).scalar_one()
    connection.execute(orders.insert().values(run_id=run_id, verb=verb, argument=argument, who=who, placed_at=at))
    append_event(connection, "order", who=who, at=at, run=run, verb=verb, site=argument)
    newest = select(orders).where(orders.c.run_id == run_id).order_by(desc(orders.c.id)).limit(1)
    return order_row(connection.execute(newest).mappings().one())


def in_force(connection: Connection, run_id: int) -> InForce:
    """The commands that are in force for a run now."""
    found = connection.execute(select(orders).where(orders.c.run_id == run_id).order_by(orders.c.id)).mappings()
    return folded([order_row(row) for row in found])


def folded(listed: list[OrderRow]) -> InForce:
    """All orders of a run, in order, as one."""
    pause = stop = None
    excluded: set[str] = set()
    for order in listed:
        waits = order.handled_at is None
        if order.action == "pause":
            pause = order
        elif order.action == "resume":
            pause = stop = None
        elif order.action in STOPS:
            stop = order if waits else stop
        elif order.action == "exclude" and order.argument is not None:
            excluded.add(order.argument)
        elif order.action == "include" and order.argument is not None:
            excluded.discard(order.argument)
    news = tuple(order for order in listed if order.handled_at is None)
    exports = tuple(order for order in news if order.action == "export")
    return InForce(pause, stop, frozenset(excluded), exports, news)


def answer_orders(connection: Connection, taken: Iterable[OrderRow], outcome: str, *, at: float) -> None:
    """Record that commands were carried out, or why not."""
    for order in taken:
        connection.execute(
            update(orders)
            .where(orders.c.id == order.id, orders.c.taken_at.is_(None))
            .values(taken_at=at, outcome=outcome)
        )


def order_row(row: Mapping[Any, Any]) -> OrderRow:
    """A row of `orders`."""
    return OrderRow(**{RENAMED.get(name, name): value for name, value in row.items() if name != "run_id"})

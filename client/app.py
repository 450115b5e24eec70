"""The client as a thin Flower ClientApp; the work of a round is in round.py."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.messages import read_task, reply_message, unreadable
from client.round import answer
from client.site import Site

log = logging.getLogger(__name__)


def client_app(find_site: Callable[[Context], Site]) -> ClientApp:
    """A ClientApp that answers training messages with the site that `find_site` gives for a node."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = find_site(context)
        try:
            task, blob = read_task(message)
        except (ValueError, KeyError, TypeError) as error:
            log.error("a message cannot be read: %s", error)
            return reply_message(message, unreadable(message, error, client=site.name), None)
        return reply_message(message, *answer(task, blob, site))

    return app

"""The client as a Flower ClientApp: thin. What it does is in round.py."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.messages import read_task, reply_message
from client.round import answer
from client.site import Site
from fedlora.task import Report


def client_app(find_site: Callable[[Context], Site]) -> ClientApp:
    """A ClientApp that answers training messages with the site that `find_site` gives for a node."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = find_site(context)
        try:
            task, blob = read_task(message)
        except (ValueError, KeyError, TypeError):
            report = Report(client=site.name, outcome="failed", code="malformed-task", round=1)
            return reply_message(message, report, None)
        return reply_message(message, *answer(task, blob, site))

    return app

"""Messages that several simulated clients answer together (`--together`): trained in one pass, packed one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flwr.app import Context, Message

from client.messages import read_task, reply_message, unreadable
from client.site import Site
from client.together.groups import MOST_CLIENTS
from client.together.rounds import Asked, answer_together
from client.together.trainer import Together
from fedlora.config.compute import ComputeSettings
from simulations.attacks import Attackers

log = logging.getLogger(__name__)


def several_of(
    find_site: Callable[[Context], Site], compute: ComputeSettings, hostile: Attackers | None
) -> Several | None:
    """None where clients answer one after the other: attackers look at what they have trained, each by itself."""
    if compute.together and hostile is not None:
        log.warning("clients are trained one by one: there are attackers among them.")
    return Several(find_site) if compute.together and hostile is None else None


class Several:
    """What the local grid asks in the place of one client after another (`simulations.local_grid.Answering`)."""

    at_once = MOST_CLIENTS

    def __init__(self, find_site: Callable[[Context], Site]) -> None:
        self._find_site = find_site
        self._trainer = Together()

    def __call__(self, messages: Sequence[tuple[Message, Context]]) -> list[Message]:
        """A reply to each message, in order, as `client.app` gives it."""
        asked: dict[int, Asked] = {}
        replies: dict[int, Message] = {}
        for number, (message, context) in enumerate(messages):
            site = self._find_site(context)
            try:
                task, blob = read_task(message)
            except (ValueError, KeyError, TypeError) as error:
                log.error("a message cannot be read: %s", error)
                replies[number] = reply_message(message, unreadable(message, error, client=site.name), None)
            else:
                asked[number] = (task, blob, site)
        answers = answer_together(list(asked.values()), self._trainer)
        for number, (report, update) in zip(asked, answers, strict=True):
            replies[number] = reply_message(messages[number][0], report, update)
        return [replies[number] for number in range(len(messages))]

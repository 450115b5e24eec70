"""A warm executor that sends every answer twice, under two message ids: a site whose network stack retries too well.

python -m tests.chaos.answer_twice ADDRESS
"""

from __future__ import annotations

import logging

from flwr.app import Context, Message

from client.flower import executor

log = logging.getLogger("fedlora.executor")
once = executor.push_message


def push_twice(client: executor.RuntimeHttpClient, message: Message, context: Context) -> None:
    """The second is another message to Flower: it was made a moment later."""
    once(client, message, context)
    again = Message(message.content, reply_to=executor_asked[-1])
    try:
        once(client, again, context)
    except Exception as error:  # whoever refuses it: SuperNode, SuperLink or coordinator
        log.info("answered twice, refused by the SuperNode", extra={"why": type(error).__name__})
        return
    log.info("answered twice")


executor_asked: list[Message] = []
pull = executor.pull_task_input


def pull_and_remember(client: executor.RuntimeHttpClient) -> object:
    found = pull(client)
    executor_asked.append(found[0])
    return found


if __name__ == "__main__":
    executor.push_message = push_twice
    executor.pull_task_input = pull_and_remember
    executor.main()

"""`python -m client.flower.supernode CERTIFICATE KEY ARGUMENTS...`: Flower's SuperNode, with this site's certificate.

Two threads of Flower's can end by an answer that they do not expect, and leave a process behind that looks alive: the
one that sends heartbeats, after which the coordinator asks this site no more, and the one that receives messages. Here
the first goes on, and the process ends with the second, so that its supervisor starts another. How it receives and
sends is told in `client.flower.turns`.

Flower 1.39 has no setting for any of it. Where the private names of Flower's are not as they are here, the SuperNode
does not start.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from client.flower.identity import channel_credentials
from client.flower.turns import take_turns
from fedlora.processes.unbegun import end_where_a_thread_cannot_begin

log = logging.getLogger("fedlora.supernode")

CONNECTION, COMMAND = "flwr.client.grpc_rere_client.connection", "flwr.supernode.cli.flower_supernode"


def main() -> None:
    """Become the SuperNode, and end when it does."""
    certificate, key, *arguments = sys.argv[1:]
    sys.argv = ["flower-supernode", *arguments, "--auth-supernode-private-key", key]
    show_certificate(Path(key), Path(certificate))
    end_where_a_thread_cannot_begin()
    beat_on()
    take_turns()
    run_to_the_end(importlib.import_module(COMMAND).flower_supernode)


def run_to_the_end(supernode: Callable[[], object]) -> None:
    """Ends this process with it: the server for the executor would keep it there."""
    status = 1
    try:
        supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def beat_on() -> None:
    """From now on a heartbeat that the coordinator answers with an error is sent again, as one that got no answer is;
    where the coordinator does not know this node any more, the process ends."""
    connection = importlib.import_module(CONNECTION)
    if not hasattr(connection, "HeartbeatSender"):
        raise RuntimeError("flwr sends its heartbeats differently than expected: failed ones cannot be retried")
    make = connection.HeartbeatSender

    def sender(heartbeat: Callable[[], bool]) -> Any:
        def beat() -> bool:
            try:
                return heartbeat()
            except grpc.RpcError as error:
                log.warning("a heartbeat failed and is sent again", extra={"why": str(error)})
                return False
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)

        return make(beat)

    vars(connection)["HeartbeatSender"] = sender


def show_certificate(key: Path, certificate: Path) -> None:
    """From now on Flower's channels to a SuperLink are made with it."""
    connection = importlib.import_module(CONNECTION)
    if not hasattr(connection, "create_channel"):
        raise RuntimeError(
            "flwr creates its channels differently than expected: the site's certificate cannot be presented"
        )

    def create_channel(
        *,
        server_address: str,
        insecure: bool,
        root_certificates: bytes | None,
        max_message_length: int,
        interceptors: Sequence[Any],
    ) -> grpc.Channel:
        if insecure or root_certificates is None:
            raise ValueError("a site connects to its coordinator only with TLS, and trusts only its authority")
        channel = grpc.secure_channel(
            server_address,
            channel_credentials(root_certificates, key, certificate),
            options=[
                ("grpc.max_send_message_length", max_message_length),
                ("grpc.max_receive_message_length", max_message_length),
            ],
        )
        return grpc.intercept_channel(channel, *interceptors)

    vars(connection)["create_channel"] = create_channel


if __name__ == "__main__":
    main()

"""`python -m client.supernode CERTIFICATE KEY ARGUMENTS...`: Flower's SuperNode, which shows this site's certificate.

Flower 1.39 has no setting for it. The one private name of Flower's that it takes is in this file alone; where it is not
as it is here, the SuperNode does not start.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from client.identity import channel_credentials

CONNECTION, COMMAND = "flwr.client.grpc_rere_client.connection", "flwr.supernode.cli.flower_supernode"


def main() -> None:
    """Become the SuperNode."""
    certificate, key, *arguments = sys.argv[1:]
    sys.argv = ["flower-supernode", *arguments, "--auth-supernode-private-key", key]
    show_certificate(Path(key), Path(certificate))
    importlib.import_module(COMMAND).flower_supernode()


def show_certificate(key: Path, certificate: Path) -> None:
    """From now on Flower's channels to a SuperLink are made with it."""
    connection = importlib.import_module(CONNECTION)
    if not hasattr(connection, "create_channel"):
        raise RuntimeError("flwr makes its channels in another way: the site's certificate cannot be shown")

    def create_channel(
        *,
        server_address: str,
        insecure: bool,
        root_certificates: bytes | None,
        max_message_length: int,
        interceptors: Sequence[Any],
    ) -> grpc.Channel:
        if insecure or root_certificates is None:
            raise ValueError("a site speaks to its coordinator with TLS only, and trusts its authority only")
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

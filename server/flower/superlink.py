"""Flower's SuperLink with our door before it, and START_S seconds for a ServerApp to start (`patient_flower.py`).

    python -m server.flower.superlink FOLDER required|optional START_S ARGUMENTS...

Flower 1.39 has no setting for either half of the door: its Fleet server never asks for a client's certificate, and
takes no interceptor. Both are put in where it makes that server, with private names of Flower's in this file alone
(and one in patient_flower.py); where one of them is not as it is here, the SuperLink does not start.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from fedlora.processes.unbegun import end_where_a_thread_cannot_begin
from server.flower.admitted import Approved, Seen
from server.flower.door import Door
from server.flower.patient_flower import be_patient

MODULE = "flwr.superlink.cli.flower_superlink"


def main() -> None:
    """Become the SuperLink of the coordinator in FOLDER."""
    folder, certificates, start_s, *arguments = sys.argv[1:]
    sys.argv = ["flower-superlink", *arguments]
    end_where_a_thread_cannot_begin()
    be_patient(float(start_s))
    guard(Path(folder), certificates=certificates != "optional")
    importlib.import_module(MODULE).flower_superlink()


def guard(folder: Path, *, certificates: bool) -> None:
    """From now on a Fleet server that Flower makes has the door in front, and asks for `certificates`."""
    flower = importlib.import_module(MODULE)
    make = flower.generic_create_grpc_server
    door = Door(Approved(folder), certificates=certificates, seen=Seen(folder))

    def guarded(*, interceptors: list[Any], **rest: Any) -> Any:
        if not certificates:
            return make(interceptors=[door, *interceptors], **rest)
        with client_certificates() as asked:
            server = make(interceptors=[door, *interceptors], **rest)
        if asked != [True]:
            raise RuntimeError(
                "flwr creates its Fleet server differently than expected: client certificates cannot be required"
            )
        return server

    vars(flower)["generic_create_grpc_server"] = guarded


@contextmanager
def client_certificates() -> Iterator[list[bool]]:
    """Server credentials that are made meanwhile require a client's certificate; the list has an entry for each."""
    asked: list[bool] = []
    make = grpc.ssl_server_credentials

    def requiring(pairs: Any, *, root_certificates: bytes, require_client_auth: bool) -> Any:
        asked.append(True)
        return make(pairs, root_certificates=root_certificates, require_client_auth=True)

    grpc.ssl_server_credentials = requiring
    try:
        yield asked
    finally:
        grpc.ssl_server_credentials = make


if __name__ == "__main__":
    main()

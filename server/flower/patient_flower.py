"""Time for a ServerApp to start, set where the SuperLink is launched (`superlink.py`).

Flower 1.39 takes a run back from its executor when the ServerApp has not reported within 30 s, and has another started,
again and again: on a machine held to a tenth of a core the imports alone take longer. It has no setting for it. The
name that is set here is private; where it is not as it is here, the SuperLink does not start.
"""

from __future__ import annotations

import importlib

STATE = "flwr.supercore.corestate.sql_corestate"
NAME, FLOWERS_S = "HEARTBEAT_DEFAULT_INTERVAL", 30


def be_patient(start_s: float) -> None:
    """Give ServerApps this long for their first report, in seconds, and twice as long after it."""
    names = vars(importlib.import_module(STATE))
    if names.get(NAME) != FLOWERS_S:
        raise RuntimeError(
            f"flwr has another {STATE}.{NAME} than {FLOWERS_S}: the time limit for a start cannot be set"
        )
    names[NAME] = start_s

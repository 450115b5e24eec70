"""before.json: how good the model was before round 1, where its task has no guessing to be judged against."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError, parse
from server.record.records import RoundRecord

FILE = "before.json"


def write_before(folder: Path, evaluation: Evaluation) -> None:
    """Written once, before anything is sent: a run that goes on keeps it."""
    write_atomically(folder / FILE, json.dumps(evaluation.model_dump(mode="json")).encode())


def read_before(folder: Path) -> Evaluation | None:
    """None where nothing was evaluated before the first round; SettingsError where the file is damaged."""
    try:
        return parse(Evaluation, json.loads((folder / FILE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise SettingsError(f"{folder / FILE} is damaged; delete it, and the run is judged without it.") from None


def course(folder: Path, records: Iterable[RoundRecord]) -> list[Evaluation | None]:
    """Everything that a judge looks at, the first figures first."""
    before = read_before(folder)
    return [*([] if before is None else [before]), *(record.evaluation for record in records)]

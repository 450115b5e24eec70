"""docs/flower.md as a reader types it: its blocks run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from simulations.local_grid import LocalGrid, run_apps
from tests.own_apps import app_by_client, peft_model, trainer_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "flower.md").read_text(encoding="utf-8")


def names_of(number: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[number], names)  # noqa: S102 - the page's own lines
    return names


def test_the_first_three_blocks_are_a_federation(tmp_path):
    main, load, client_of = names_of(0)["main"], names_of(1)["load"], names_of(2)["client_of"]
    results = []
    server = ServerApp()

    @server.main()
    def started(grid: Grid, context: Context) -> None:
        results.append(main(grid, context, peft_model()))

    apps = [client_of(trainer_of(number, tmp_path, max_steps=1)) for number in range(2)]
    run_apps(server, LocalGrid(app_by_client(apps), nodes=2, run_config={}), {})
    assert sorted(results[0].train_metrics_clientapp) == list(range(1, 11))
    content = RecordDict({"arrays": results[0].arrays, "config": ConfigRecord()})
    load(peft_model(), SimpleNamespace(content=content))


def test_the_other_blocks_name_what_is_there():
    assert callable(names_of(3)["loop"])
    assert callable(names_of(4)["rounds"])

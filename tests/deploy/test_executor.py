"""The private parts of flwr that the warm executor stands on are as it expects; and only one file names them."""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

from client.deployment.agent import require_ready
from client.flower import executor
from client.settings import ClientSettings, SiteData
from fedlora.deployment.private_files import write_private
from fedlora.settings import SettingsError
from fedlora.units_path import units_folder

PUBLIC = {"flwr.app", "flwr.clientapp"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_flower_is_the_line_that_the_executor_was_written_for():
    assert version("flwr").startswith("1.39.")


def test_signatures_of_the_private_functions_are_unchanged():
    assert list(inspect.signature(executor.pull_task_input).parameters) == ["client"]
    assert list(inspect.signature(executor.push_message).parameters) == ["client", "message", "context"]
    assert list(inspect.signature(executor.push_task_output).parameters) == [
        "client",
        "context",
        "sub_status",
        "details",
    ]
    assert {"content", "hash_str"} <= set(executor.Fab.__dataclass_fields__)
    assert {"fab_id", "fab_version"} <= set(executor.Run.__dataclass_fields__)


def test_what_is_replaced_in_flower_is_what_it_calls():
    """`ask_often` puts a function in the place of one that `pull_task_input` looks up by this name."""
    name = "pull_and_inflate_object_from_tree"
    assert name in executor.pull_task_input.__code__.co_names
    parameters = inspect.signature(executor.pull_and_inflate_object_from_tree).parameters
    assert {"initial_backoff", "backoff_cap", "max_tries_per_object"} <= set(parameters)
    assert executor.run_clientapp.pull_task_input is executor.pull_task_input


def test_private_modules_of_flower_are_named_in_the_executor_only():
    guilty = {
        str(path.relative_to(units_folder()))
        for path in (units_folder() / "client").rglob("*.py")
        if any(name.startswith("flwr") and name not in PUBLIC for name in imported(path))
    }
    assert guilty == {"client/flower/executor.py"}


def site(tmp_path: Path, **changes: object) -> ClientSettings:
    write_private(tmp_path / "node.key", b"k")
    (tmp_path / "ca.crt").write_text("c")
    values = {
        "site": "a", "coordinator": "localhost:1", "data": SiteData(train=tmp_path / "x.csv"), "folder": tmp_path,
        "node_key": tmp_path / "node.key", "ca_certificate": tmp_path / "ca.crt",
    }  # fmt: skip
    return ClientSettings(**{**values, **changes})


def test_the_stock_executor_needs_consent_to_run_any_code(tmp_path):
    with pytest.raises(SettingsError, match="allow_bundles: any"):
        require_ready(site(tmp_path, executor="stock"))
    require_ready(site(tmp_path, executor="stock", allow_bundles="any"))


def test_a_world_readable_node_key_stops_the_agent(tmp_path):
    settings = site(tmp_path)
    settings.node_key.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        require_ready(settings)

"""The audit from a recipe to its verdict: real rounds, a deployed site's files, faults put into the product."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from client import own_rows
from fedlora.settings import SettingsError
from simulations.auditing.audit import Asked, Audit, audit
from simulations.auditing.words import text_of
from simulations.commands import privacy as privacy_commands
from tests.attack.faults import FAULTS
from tests.federations import save_messages, save_tiny_model, tiny_recipe

FEW = Asked(client="blue", canaries=160, rows=24, take_out=3, confidence=1 - 1e-6)
"""So sure that no honest run fails a test of this file by chance."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model", hidden=32), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, "privacy.epsilon=6", "train.steps=4", *overrides)


@pytest.fixture(autouse=True)
def _fresh_rows() -> Iterator[None]:
    """Rows that a faulty split made are not remembered."""
    yield
    own_rows._rows_in.cache_clear()


def refuted_by(found: Audit) -> set[str]:
    return {test.test for test in found.findings if test.refuted} | ({"rows"} if found.moved.refuted else set())


@pytest.mark.parametrize("strategy", ["ffa", "fedit", "fedsvd"])
def test_an_honest_recipe_is_not_refuted_and_the_audit_could_have_refuted_it(recipe, strategy):
    found = audit(recipe(f"strategy.name={strategy}"), FEW)
    assert refuted_by(found) == set(), text_of(found)
    assert found.conclusive, text_of(found)
    assert found.steps == 4 * found.rounds
    assert 0 < found.epsilon_claimed <= 6
    assert found.moved.most <= 1.0001


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("noise off", "noise"),
        ("σ/10", "noise"),
        ("clipping off", "clipping"),
        ("q x 8", "sampling"),
        ("the old split", "rows"),
    ],
)
def test_each_fault_is_refuted(recipe, fault, test):
    with FAULTS[fault]():
        found = audit(recipe("strategy.name=ffa"), FEW)
    assert test in refuted_by(found), text_of(found)


def test_without_noise_the_distribution_free_bound_exceeds_the_claim(recipe):
    with FAULTS["noise off"]():
        found = audit(recipe("strategy.name=fedit", "privacy.epsilon=1"), replace(FEW, confidence=0.99))
    assert found.epsilon_lower_bound > found.epsilon_claimed
    assert found.power_of_bound > 0.9


def test_an_audit_that_could_not_tell_concludes_nothing(recipe):
    found = audit(recipe("strategy.name=ffa"), Asked(client="blue", canaries=6, rounds=1, rows=8, take_out=1))
    assert not found.conclusive
    assert not found.refuted
    assert "NO CONCLUSION: this audit would have missed (q x 8" in text_of(found)


def test_a_recipe_that_is_not_private_or_has_no_such_client_is_refused(recipe):
    with pytest.raises(SettingsError, match="the recipe is not private"):
        audit(recipe("privacy.epsilon=null"), FEW)
    with pytest.raises(SettingsError, match="no client 'nobody' in this recipe; there are: blue"):
        audit(recipe(), Asked(client="nobody"))
    with pytest.raises(SettingsError, match="5000 canaries need two values each that train"):
        audit(recipe(), Asked(canaries=5000))


@pytest.mark.parametrize(("fault", "status"), [(None, 0), ("noise off", 1)])
def test_the_command_ends_with_what_it_found(recipe, tmp_path, fault, status):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe("strategy.name=ffa").model_dump(mode="json")))
    asked = ["audit", str(file), "--client", "blue", "--canaries", "160", "--rows", "24", "--take-out", "2"]
    asked += ["--confidence", "0.999999"]
    if fault is None:
        done = CliRunner().invoke(privacy_commands.app, asked)
    else:
        with FAULTS[fault]():
            done = CliRunner().invoke(privacy_commands.app, [*asked, "--json"])
        assert json.loads(done.stdout)["refuted"]
    assert done.exit_code == status, done.output


def test_the_command_ends_with_two_where_it_could_not_tell(recipe, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe("strategy.name=ffa").model_dump(mode="json")))
    few = ["audit", str(file), "--canaries", "6", "--rounds", "1", "--rows", "8", "--take-out", "1"]
    done = CliRunner().invoke(privacy_commands.app, few)
    assert done.exit_code == 2
    assert "would have missed" in done.output


@pytest.mark.parametrize("task", ["causal-lm", "image-classification", "token-classification"])
def test_a_task_that_reads_no_texts_with_a_class_is_refused(recipe, task):
    with pytest.raises(SettingsError, match=rf"with a class, and model\.task={task} reads none: it cannot be audited"):
        audit(recipe(f"model.task={task}"), FEW)

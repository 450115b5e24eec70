"""rounds.jsonl and the checkpoint belong together: lines that are lost or changed are never taken for whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlora.settings import SettingsError
from server.record import checkpoint
from server.record.checkpoint import CheckpointError, Progress, read
from server.record.journal import Journal
from server.record.lines import line_of
from server.record.records import RoundRecord
from strategies.base import State
from tests.strategies.examples import built, start

ROUNDS = 4


def record(number: int) -> RoundRecord:
    return RoundRecord(number, (), None, None, 0, 1.0)


@pytest.fixture
def kept(recipe, tmp_path) -> tuple[Path, Journal]:
    """A run's folder after some rounds, and a journal that has not read it yet."""
    state: State = start(built("fedsvd"))
    journal = Journal(tmp_path / "run", recipe())
    journal.begin()
    journal.keep(None, Progress("r", 0, state))
    for number in range(1, ROUNDS + 1):
        journal.keep(record(number), Progress("r", number, state))
    return tmp_path / "run", Journal(tmp_path / "run", recipe())


def lines(folder: Path) -> list[str]:
    return (folder / "rounds.jsonl").read_text().splitlines(keepends=True)


def write(folder: Path, kept_lines: list[str]) -> None:
    (folder / "rounds.jsonl").write_text("".join(kept_lines))


def test_a_whole_journal_goes_on_and_stays_bound(kept):
    folder, journal = kept
    before = lines(folder)
    progress = journal.resume()
    assert (progress.round, lines(folder)) == (ROUNDS, before)
    journal.keep(record(ROUNDS + 1), Progress("r", ROUNDS + 1, progress.state))
    assert journal.resume().round == ROUNDS + 1


def test_a_line_that_a_crash_cut_short_or_that_had_no_checkpoint_yet_is_dropped(kept):
    folder, journal = kept
    before = lines(folder)
    write(folder, [*before, json.dumps(line_of(record(ROUNDS + 1))) + "\n", '{"round": 6, "cl'])
    assert journal.resume().round == ROUNDS
    assert lines(folder) == before


@pytest.mark.parametrize("last", [[], ['{"round": 4, "clients": []']], ids=["lost", "cut short"])
def test_without_its_last_line_the_run_goes_on_from_the_round_before(kept, last):
    folder, journal = kept
    write(folder, [*lines(folder)[:-1], *last])
    assert journal.resume().round == ROUNDS - 1
    assert (folder / "checkpoint.damaged.safetensors").exists()
    assert journal.resume().round == ROUNDS - 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[:1],
        lambda found: [],
        lambda found: [found[0], *found[2:]],
        lambda found: [found[0].replace('"seconds": 1.0', '"seconds": 2.0'), *found[1:]],
    ],
    ids=["cut", "empty", "one out of the middle", "changed"],
)
def test_lost_or_changed_lines_are_refused_and_nothing_is_changed(kept, spoil):
    folder, journal = kept
    write(folder, spoil(lines(folder)))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match="missing or changed, including receipts"):
        journal.resume()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_of_the_first_version_names_no_digest_and_needs_its_number_of_lines(kept, recipe):
    folder, journal = kept
    path = folder / "checkpoint.safetensors"
    progress = read(path, recipe=recipe().model_dump(mode="json"))
    assert progress.journal is not None
    old = Progress("r", ROUNDS, progress.state)
    checkpoint.write(path, old, recipe=recipe().model_dump(mode="json"))
    assert journal.resume().round == ROUNDS
    write(folder, lines(folder)[:2])
    with pytest.raises(SettingsError, match="missing or changed"):
        journal.resume()

"""A site's training set: one row of its file moves at most one example, whatever the rows are; a task moves none."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import random
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from client.deployed import policy_of, require_both, respond
from client.own_rows import OwnRows, own_rows, require_classes, require_usable
from client.settings import ClientSettings, SiteData
from fedlora.data.form import Columns
from fedlora.data.rows import read_rows
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.rows_key import rows_key
from fedlora.settings import SettingsError
from tests.privacy.rounds import first_task
from tests.privacy.tasks import STATE, task

Line = tuple[str, ...]
FILES = 100


def write(path: Path, lines: Iterable[Line]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *lines])
    return path


def site(folder: Path, lines: Iterable[Line], *, test: Iterable[Line] | None = None, **data) -> ClientSettings:
    """A site in `folder`, whose key stays when its file changes."""
    return ClientSettings(
        site="clinic",
        coordinator="c:1",
        state=folder / "state",
        data=SiteData(
            train=write(folder / "train.csv", lines),
            test=None if test is None else write(folder / "test.csv", test),
            **data,
        ),
    )


def examples(rows: OwnRows) -> set[tuple[str, str]]:
    found = [(row["text"], row.label) for row in rows.train]
    assert len(found) == len(set(found)) == len({text for text, _ in found})
    return set(found)


def any_lines(draw: random.Random) -> list[Line]:
    """Repeats, conflicts, blank cells, unknown labels, broken rows: few texts, so that they meet."""
    texts = [f"note {number}" for number in range(draw.choice((1, 2, 5, 30)))] + ["", "  ", "007", "1.0"]
    labels = ("yes", "no", "0", "1", "strange", "", " ")
    weights = (8, 8, 2, 2, 1, 1, 1)
    lines = [(draw.choice(texts), *draw.choices(labels, weights)) for _ in range(draw.randrange(1, 60))]
    return [line if draw.random() > 0.03 else draw.choice([(), ("a",), ("a", "yes", "b")]) for line in lines]


@pytest.mark.parametrize("declared", [None, ("yes", "no", "0", "1")])
@pytest.mark.parametrize("own_test", [False, True])
def test_one_row_more_or_less_moves_at_most_one_example(tmp_path, declared, own_test):
    for seed in range(FILES):
        draw = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        lines = any_lines(draw)
        test = any_lines(draw) if own_test else None
        before = examples(own_rows(site(folder, lines, test=test, labels=declared)))
        index = draw.randrange(len(lines))
        more = [*lines[:index], draw.choice(any_lines(draw)), *lines[index:]]
        for changed in (lines[:index] + lines[index + 1 :], more):
            after = examples(own_rows(site(folder, changed, test=test, labels=declared)))
            assert len(before ^ after) <= 1, (lines, changed)
        if test is not None:
            after = examples(own_rows(site(folder, lines, test=test[1:], labels=declared)))
            assert len(before ^ after) <= 1


BROKEN = ['"open,yes', 'a 5" pipe,yes', "one,two,three", "one", ',"yes', '"shut"text,no', "caf\udce9,yes", '"",']


@pytest.mark.parametrize("broken", BROKEN)
def test_a_line_that_is_no_row_moves_nothing_and_is_shown_to_this_site_alone(tmp_path, broken):
    lines = [(f"note {number}", "yes") for number in range(30)]
    settings = site(tmp_path, lines, test=[("apart", "yes")])
    before = own_rows(settings)
    text = settings.data.train.read_text().splitlines()
    for place in (1, 15, len(text)):
        content = "\n".join([*text[:place], broken, *text[place:]]) + "\n"
        settings.data.train.write_text(content, errors="surrogateescape")
        after = own_rows(settings)
        assert examples(after) == examples(before)
        assert after.counts.read == before.counts.read + 1
        if broken != '"",':
            assert after.malformed[0].startswith(f"{settings.data.train}:{place + 1}: ")
            assert "train.csv:" not in repr(after)


def test_one_row_of_an_airline_moves_at_most_one_example(tmp_path):
    """Real texts, with their repeats and conflicts, as they came."""
    draw = random.Random(0)
    for number, rows in enumerate(by_airline().values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        before = examples(own_rows(site(folder, rows)))
        assert 0.85 < len(before) / len({text for text, _ in rows}) < 0.95
        for index in draw.sample(range(len(rows)), 10):
            after = examples(own_rows(site(folder, rows[:index] + rows[index + 1 :])))
            assert len(before ^ after) <= 1


def by_airline() -> dict[str, list[Line]]:
    from fedlora.data.packaged import messages

    found: dict[str, list[Line]] = {}
    for row in messages(others=False):
        found.setdefault(row.client, []).append((row["text"], row.label))
    return found


def test_a_row_put_in_front_with_another_label_takes_its_text_out_and_puts_nothing_in(tmp_path):
    lines = [(f"note {number}", "yes") for number in range(50)]
    before = examples(own_rows(site(tmp_path, lines, test=[("apart", "yes")])))
    after = examples(own_rows(site(tmp_path, [("note 7", "no"), *lines], test=[("apart", "yes")])))
    assert before - after == {("note 7", "yes")}
    assert after < before


def test_the_rows_are_as_many_as_were_read_and_every_one_has_its_reason(tmp_path):
    lines = [("a", "yes"), ("a", "yes"), ("b", "yes"), ("b", "no"), ("", "yes"), ("c", "odd"), ("d", "no"), ("e", "no")]
    settings = site(tmp_path, lines, test=[("d", "no")], labels=("yes", "no"))
    rows = own_rows(settings)
    assert examples(rows) == {("a", "yes"), ("e", "no")}
    counts = rows.counts
    assert (counts.read, counts.kept, counts.repeated, counts.conflicting) == (8, 3, 1, 2)
    assert counts.read == counts.kept + counts.repeated + counts.conflicting + sum(n for _, n in counts.unusable)
    assert dict(counts.unusable) == {"a class that is not declared": 1, "nothing in column 'text'": 1}
    assert rows.also_tested == 1


def test_the_split_is_the_same_every_time_secret_and_a_tenth(tmp_path):
    lines = [(f"note {number}", "yes") for number in range(2000)]
    settings = site(tmp_path, lines)
    first, second = own_rows(settings), own_rows(site(tmp_path, reversed(lines)))
    assert examples(first) == examples(second)
    assert 150 < len(first.test) < 250
    assert not examples(first) & {(row["text"], row.label) for row in first.test}
    key = tmp_path / "state" / "privacy" / "rows.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert examples(own_rows(site(tmp_path / "other", lines))) != examples(first)  # another site's key is another
    key.chmod(0o644)
    with pytest.raises(SettingsError, match="must be 0600"):
        own_rows(settings)


def keys_of(folders: list[Path], said: Path) -> None:
    said.write_bytes(b"".join(rows_key(folder) for folder in folders))


def test_processes_that_start_together_agree_on_the_key(tmp_path):
    """By hand: `multiprocessing.Pool` can wait for ever when it ends, in a process that has threads."""
    folders = [tmp_path / f"site-{number}" for number in range(8)]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=keys_of, args=(folders, tmp_path / f"said-{number}")) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    said = {(tmp_path / f"said-{number}").read_bytes() for number in range(4)}
    assert len(said) == 1
    assert len({rows_key(folder) for folder in folders}) == 8
    assert not list(tmp_path.rglob("*.tmp"))


def test_there_is_always_something_to_test_on(tmp_path):
    for count in range(1, 12):
        rows = own_rows(site(tmp_path, [(f"note {number}", "yes") for number in range(count)]))
        assert len(rows.test) >= 1
        assert len(rows.train) + len(rows.test) == count
    alone = site(tmp_path, [("note", "yes")])
    rows = own_rows(alone)
    with pytest.raises(SettingsError, match="has 0 example"):
        require_both(alone, rows)


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
    assert len(own_rows(site(tmp_path, [("a", "x")], test=[("b", "x")])).train) == 1
    assert len(own_rows(site(tmp_path, [("a", "x"), ("c", "x")], test=[("b", "x")])).train) == 2


def refused(code: Code, check, *arguments) -> str:
    with pytest.raises(Refusal) as caught:
        check(*arguments)
    assert caught.value.code is code
    return str(caught.value)


@pytest.mark.parametrize(("blank", "enough"), [(20, True), (21, False)])
def test_too_many_unusable_rows_are_a_refusal_and_repeats_are_not_unusable(tmp_path, blank, enough):
    lines = [(f"note {number % 40}", "yes") for number in range(100 - blank)] + [("", "yes")] * blank
    settings = site(tmp_path, lines)
    if enough:
        require_usable(settings, own_rows(settings))
    else:
        said = refused(Code.TOO_MANY_UNUSABLE, require_usable, settings, own_rows(settings))
        assert "21 with nothing in column 'text'" in said
        lenient = site(tmp_path, lines, max_unusable_share=0.5)
        require_usable(lenient, own_rows(lenient))


def test_nothing_to_train_on_is_a_refusal(tmp_path):
    settings = site(tmp_path, [("a", "yes"), ("a", "no")], test=[("b", "yes")])
    refused(Code.TOO_FEW_EXAMPLES, require_usable, settings, own_rows(settings))


def test_declared_classes_that_a_task_lacks_are_a_refusal_that_opens_nothing(tmp_path):
    settings = site(tmp_path, [], labels=("yes", "no"))
    settings.data.train.unlink()
    require_classes(settings, ("no", "perhaps", "yes"))
    assert "'no'" in refused(Code.CLASSES_NOT_DECLARED, require_classes, settings, ("yes", "No"))
    require_classes(site(tmp_path, []), ("anything", "else"))


@pytest.mark.parametrize(
    ("lines", "data", "code"),
    [
        ([("", "yes"), ("a", "yes"), ("b", "no")], {}, "too-many-unusable"),
        ([("a", "yes"), ("a", "no")], {}, "too-few-examples"),
    ],
)
def test_these_refusals_come_before_anything_is_charged(tiny_model, tmp_path, lines, data, code):
    (tmp_path / "policy.yaml").write_text(f"base_models: [{tiny_model}]\n")
    settings = site(tmp_path, lines, **data).model_copy(update={"policy": tmp_path / "policy.yaml"})
    report, blob = respond(*first_task(tiny_model, ("no", "yes")), settings)
    assert (report.outcome, report.code, blob) == ("refused", code, None)
    assert not list((tmp_path / "state").rglob("ledger.jsonl"))
    assert policy_of(settings).require_privacy


def test_a_class_that_is_declared_and_not_asked_for_is_refused_before_a_model_is_opened(tmp_path):
    model = str(tmp_path / "no such model")
    (tmp_path / "policy.yaml").write_text(f"base_models: [{model}]\n")
    settings = site(tmp_path, [("a", "maybe"), ("b", "yes")], labels=("maybe", "yes"))
    settings = settings.model_copy(update={"policy": tmp_path / "policy.yaml"})
    report, blob = respond(task(model={"id": model}, labels=("no", "yes")), STATE, settings)
    assert (report.outcome, report.code, blob) == ("refused", "classes-not-declared", None)
    assert not list((tmp_path / "state").rglob("ledger.jsonl"))


def test_a_task_for_something_else_than_the_data_are_for_is_refused_before_anything_is_opened(tmp_path):
    model = str(tmp_path / "no such model")
    (tmp_path / "policy.yaml").write_text(f"base_models: [{model}]\n")
    settings = site(tmp_path, [("a", "no"), ("b", "yes")]).model_copy(update={"policy": tmp_path / "policy.yaml"})
    settings.data.train.unlink()
    report, blob = respond(task(model={"id": model, "task": "causal-lm"}, labels=()), STATE, settings)
    assert (report.outcome, report.code, blob) == ("refused", "data-for-another-task", None)
    assert not list((tmp_path / "state").rglob("ledger.jsonl"))


def test_read_rows_agrees_with_what_a_site_reads(tmp_path):
    lines = any_lines(random.Random(3))
    settings = site(tmp_path, lines, test=[("apart", "yes")])
    assert list(own_rows(settings).train) == read_rows(str(settings.data.train), Columns())


def changed(tmp_path, name: str, content: str, more: str) -> tuple[int, int]:
    """How many examples leave and join with `more` in the place of `content`."""
    settings = site(tmp_path, [("a", "yes")], test=[("apart", "yes")])
    path = settings.data.train.with_suffix(name)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"train": path})})
    seen = []
    for text in (content, more):
        path.write_text(text)
        seen.append(examples(own_rows(settings)))
    return len(seen[0] - seen[1]), len(seen[1] - seen[0])


def csv_text(rows) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("text", "label"), *rows])
    return out.getvalue()


@pytest.mark.parametrize("lines", [3, 1001, 5000])
def test_a_text_of_many_lines_that_look_like_rows_is_one_row(tmp_path, lines):
    """A bound of a thousand lines made the rest of such a text rows of their own: 1,078 joined."""
    rows = [(f"note {number}", "yes") for number in range(300)]
    long = ("\n".join(f"line {number},yes" for number in range(lines)), "yes")
    left, joined = changed(tmp_path, ".csv", csv_text(rows), csv_text([*rows[:100], long, *rows[100:]]))
    assert left + joined <= 1
    spoilt = csv_text([*rows[:100], long, *rows[100:]]).replace(f'line {lines - 1},yes"', f'line {lines - 1},yes"x')
    assert changed(tmp_path, ".csv", csv_text(rows), spoilt) == (0, 0)


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "x", "label": "yes", "deep": ' + "[" * 20_000 + "]" * 20_000 + "}",
        "{nonsense}",
        '{"text": "a]b\\"]", "label": "no"}',
        "[1, [2]]",
        '"only text, with ] and }"',
        "12",
        '{"text": "x", "label": "yes"}]',
        '{"text": "x", "label": "yes"}}',
        "]",
    ],
    ids=range(9),
)
def test_one_row_of_a_json_list_costs_or_adds_itself_alone(tmp_path, row):
    rows = [json.dumps({"text": f"note {number}", "label": "yes"}) for number in range(300)]
    for place in (0, 11, 300):
        more = "[" + ",\n".join([*rows[:place], row, *rows[place:]]) + "]"
        assert sum(changed(tmp_path, ".json", "[" + ",\n".join(rows) + "]", more)) <= 1


@pytest.mark.parametrize("behind", ['\n{"text": "new", "label": "yes"}\n', ";", "\n# made by hand", "]"])
def test_what_stands_behind_a_json_list_costs_nothing_of_it(tmp_path, behind):
    """`echo row >> file.json`: a rule by the last character made 100 rows one."""
    whole = "[" + ",\n".join(json.dumps({"text": f"note {number}", "label": "yes"}) for number in range(300)) + "]"
    left, joined = changed(tmp_path, ".json", whole, whole + behind)
    assert left == 0
    assert joined == behind.count("new")
    assert changed(tmp_path, ".json", whole, whole[:-1]) == (0, 0)


def test_a_million_escaped_quotes_in_a_text_that_is_not_closed_are_read_once(tmp_path):
    """The search for its end began again at each of them: 16,000 took three seconds, a million hours."""
    rows = json.dumps({"text": "note", "label": "yes"})
    assert changed(tmp_path, ".json", f"[{rows}]", f'[{rows}, {{"text": "' + '\\"' * 1_000_000 + "]") == (0, 0)


def test_a_first_line_that_is_a_list_makes_no_list_of_a_file_of_lines(tmp_path):
    rows = [json.dumps({"text": f"note {number}", "label": "yes"}) for number in range(300)]
    assert changed(tmp_path, ".json", "\n".join(rows), "\n".join(['["x", "a"]', *rows])) == (0, 0)

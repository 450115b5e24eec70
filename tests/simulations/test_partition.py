"""Data: distinct texts, one shared test set, clients that do not overlap, and plain errors for what cannot be used."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from fedlora.config import DataSettings, ModelSettings
from fedlora.data.examples import concatenate
from fedlora.data.form import Columns
from fedlora.data.membership import key_of, place
from fedlora.data.one_per_text import one_per_text
from fedlora.data.packaged import addressee
from fedlora.data.row import Row, text_row
from fedlora.data.rows import read_rows
from fedlora.settings import SettingsError
from simulations.data.partition import Federation, assign, by_label, columns_of, dealt, dirichlet, federation, iid
from tests.federations import CLIENTS
from tests.token_examples import labels_n, token_ids

LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


def texts(examples) -> set[tuple[int, ...]]:
    return {tuple(row.tolist()) for row in token_ids(examples)}


@pytest.fixture
def build(tiny_model, messages):
    def make(source: str = messages, seed: int = 0, **settings) -> Federation:
        values = {"source": source, "held_out": 20, "test_fraction": 0.25, **settings}
        return federation(DataSettings(**values), model=ModelSettings(id=tiny_model, max_tokens=16), seed=seed)

    return make


def test_natural_clients_share_no_text_with_each_other_or_the_test_set(build):
    data = build()
    assert tuple(data.clients) == CLIENTS
    parts = [texts(part) for client in data.clients.values() for part in (client.train, client.test)]
    parts.append(texts(data.held_out))
    assert sum(map(len, parts)) == len(set().union(*parts)) == 160


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "label"])
def test_other_partitions_use_every_example_once(build, partition):
    data = build(partition=partition, clients=5)
    assert len(data.clients) == 5
    assert sum(len(client.train) + len(client.test) for client in data.clients.values()) == 140


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(build):
    first, second, other = build(), build(), build(seed=1)
    assert texts(first.held_out) == texts(second.held_out)
    assert texts(first.held_out) != texts(other.held_out)


@pytest.mark.parametrize("partition", ["natural", "iid", "dirichlet", "label"])
@pytest.mark.parametrize(("train_fraction", "held_out"), [(None, 20), (0.5, 20), (None, 0.15)])
def test_one_row_moves_at_most_one_example_of_a_client(messages, partition, train_fraction, held_out):
    """With repeats, conflicts and texts at several clients among the rows."""
    settings = DataSettings(
        source=messages, partition=partition, clients=4, held_out=held_out, test_fraction=0.2,
        train_fraction=train_fraction, labels=("bad", "good"),
    )  # fmt: skip
    draw = random.Random(partition)
    whole = [text_row(row["text"], row.label, row.client) for row in read_rows(messages, Columns(client="client"))]
    for _ in range(25):
        rows = draw.sample(whole, 120)
        rows += [
            text_row(row["text"], draw.choice(("good", "bad")), draw.choice(CLIENTS))
            for row in draw.choices(rows, k=30)
        ]
        before = trained(rows, settings)
        rows.pop(draw.randrange(150))
        after = trained(rows, settings)
        assert all(len(before[name] ^ after[name]) <= 1 for name in before)


def trained(rows: list[Row], settings: DataSettings) -> dict[str, set[tuple[str, str]]]:
    kept, _, _ = one_per_text(rows, by_client=settings.partition == "natural")
    _, clients = assign(kept, settings, seed=0)
    return {name: {(kept[i]["text"], kept[i].label) for i in train} for name, (train, _) in clients.items()}


def test_a_text_is_on_the_same_side_at_every_client_and_never_in_the_shared_test_set(tmp_path, tiny_model):
    path = tmp_path / "shared.csv"
    lines = [f"the {n} flight,{'good' if n % 2 else 'bad'},{client}" for n in range(200) for client in ("p", "q")]
    path.write_text("text,label,client\n" + "\n".join(lines) + "\n")
    settings = DataSettings(source=str(path), held_out=20, test_fraction=0.3)
    rows = read_rows(str(path), columns_of(settings, "sequence-classification"))
    held_out, clients = assign(rows, settings, seed=0)
    texts_of = {name: [{rows[i]["text"] for i in part} for part in parts] for name, parts in clients.items()}
    assert texts_of["p"] == texts_of["q"]
    assert len(held_out) == 20
    assert not {rows[i]["text"] for i in held_out} & set().union(*texts_of["p"])


def test_max_examples_keeps_a_part_of_what_would_be_trained_on(build):
    whole, few = build(), build(max_examples=5)
    for name, client in few.clients.items():
        assert len(client.train) == 5
        assert texts(client.train) < texts(whole.clients[name].train)
        assert texts(client.test) == texts(whole.clients[name].test)


def test_repeated_texts_count_once(build, tmp_path):
    path = tmp_path / "twice.csv"
    rows = [f"the {n} flight,good,x" for n in range(30)] + [f"the {n} bag,bad,y" for n in range(30)]
    path.write_text("text,label,client\n" + "\n".join(rows + rows) + "\n")
    assert len(read_rows(str(path), Columns())) == 60


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_are_read_by_column_names(tmp_path, suffix):
    table = pyarrow.table({"body": ["one", "two"], "mood": ["x", "y"], "who": ["p", "q"]})
    path = tmp_path / f"data{suffix}"
    if suffix == ".csv":
        path.write_text("body,mood,who\none,x,p\ntwo,y,q\n")
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    else:
        pyarrow.parquet.write_table(table, path)
    rows = read_rows(str(path), Columns(renamed=(("text", "body"), ("label", "mood")), client="who"))
    assert [(row["text"], row.label, row.client) for row in rows] == [("one", "x", "p"), ("two", "y", "q")]


def spread(count: int) -> list[float]:
    return [(index + 0.5) / count for index in range(count)]


def test_iid_parts_are_as_equal_as_chance_and_by_label_parts_are_runs_of_classes():
    places = [place(f"text {number}", key_of(0), "client") for number in range(2000)]
    assert all(150 < size < 250 for size in Counter(iid(places, 10)).values())
    for count, seen in ((3, [{"a"}, {"b"}, {"c"}]), (2, [{"a", "b"}, {"b", "c"}])):
        parts = dealt(by_label(LABELS, [0.1, 0.9] * 50, count, classes=("a", "b", "c")), count)
        assert [{LABELS[index] for index in part} for part in parts] == seen


def test_a_smaller_dirichlet_alpha_is_more_unequal():
    def largest_share(alpha: float) -> float:
        return max(Counter(dirichlet(LABELS * 10, spread(1000), 10, alpha, seed=3)).values()) / 1000

    assert largest_share(0.1) > 0.3 > 0.2 > largest_share(100.0)


def test_an_alpha_that_underflows_gives_every_class_to_one_client():
    chosen = dirichlet(LABELS, spread(100), 20, 1e-6, seed=0)
    assert all(len({client for client, found in zip(chosen, LABELS, strict=True) if found == label}) == 1
               for label in "abc")  # fmt: skip


def test_a_batch_is_padded_to_its_own_longest_and_masked(build):
    examples = build().held_out
    batch = examples.batch([0, 1, 2])
    lengths = examples.lengths[:3]
    assert batch["input_ids"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths


def test_evaluation_batches_cover_everything_once(build):
    examples = build().held_out
    batches = list(examples.evaluation_batches(size=7))
    assert sum(len(batch["labels"]) for batch in batches) == 20
    seen = torch.cat([batch["labels"] for batch in batches])
    assert torch.equal(seen.sort().values, labels_n(examples).sort().values)


def test_concatenating_keeps_order(build):
    parts = [client.train for client in build().clients.values()]
    whole = concatenate(parts)
    assert len(whole) == sum(map(len, parts))
    assert torch.equal(token_ids(whole)[len(parts[0])], token_ids(parts[1])[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "words"}, r"data\.text='words': .* no such column; it has text, label, client"),
        ({"label": "class"}, r"data\.label='class'"),
        ({"client_column": "site"}, r"data\.client_column='site'"),
        ({"source": "nowhere.csv"}, r"data\.source='nowhere.csv': there is no such file or folder; give"),
        ({"source": "corpus.xlsx"}, r"corpus\.xlsx: it is a spreadsheet or an archive; save it as UTF-8 CSV"),
        ({"held_out": 160}, r"data\.held_out=160 takes all of the 160"),
        ({"held_out": 0.999999}, r"data\.held_out=0\.999999 takes all of the 160"),
        (
            {"held_out": 158, "partition": "iid", "clients": 2},
            r"client 'client-\d' has \d example\(s\) .*none to",
        ),
        ({"partition": "iid", "clients": 500}, r"data\.clients=500 is more than the 140"),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_the_way_out(build, settings, message):
    with pytest.raises(SettingsError, match=message):
        build(**settings)


def test_clients_that_are_row_numbers_are_refused_with_columns_that_would_do(build, tmp_path):
    path = Path(tmp_path / "numbered.csv")
    rows = [f"the {number} flight,{'ab'[number % 2]},n{number},{'pqr'[number % 3]}" for number in range(90)]
    path.write_text("\n".join(["text,label,No,shift", *rows]))
    said = r"data\.client_column='No' has 90 different values in 90 rows, so every row would be a client of its own\. "
    would_do = r"Columns that would do: 'shift' \(3 values\); or give data\.partition=iid and data\.clients=4, and rows"
    with pytest.raises(SettingsError, match=said + would_do):
        build(source=str(path), client_column="No")


def test_one_client_with_too_little_is_told_what_its_partition_has(build, tmp_path):
    path = Path(tmp_path / "one.csv")
    rows = [f"the {number} flight,{'ab'[number % 2]},{'big' if number else 'small'}" for number in range(90)]
    path.write_text("\n".join(["text,label,client", *rows]))
    with pytest.raises(
        SettingsError, match=r"client 'small' has 1 .* Use a column of clients that have more rows each"
    ):
        build(source=str(path), held_out=1)
    with pytest.raises(SettingsError, match=r"Use fewer clients \(data\.clients\), another seed"):
        build(source=str(path), held_out=1, partition="iid", clients=80)


def test_one_class_is_refused(build, tmp_path):
    path = Path(tmp_path / "one.csv")
    path.write_text("text,label,client\na,x,p\nb,x,p\nc,x,q\n")
    with pytest.raises(SettingsError, match="has 1 class"):
        build(source=str(path), held_out=1)


@pytest.mark.parametrize(
    ("text", "others", "organisation"),
    [
        ("@united thanks", False, "united"),
        ("@UnitedNations thanks", False, None),
        ("my new Apple watch", False, None),
        ("my new Apple watch", True, "apple"),
        ("@jetblue and coachella", True, "jetblue"),
    ],
)
def test_messages_belong_to_whom_they_address(text, others, organisation):
    assert addressee(text, others=others) == organisation

"""`fedlora predict`: a line a row, in the file's order, with what the adapter's own README lines compute."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch

from fedlora.plugins.gate import open_to
from fedlora.results.given import Naming, asked_rows
from fedlora.results.opened import open_result
from fedlora.results.predicting import predicted
from fedlora.results.registry import results_of
from fedlora.settings import SettingsError
from tests.exported import as_its_readme_says, names_of_its_readme
from tests.fedlora.results.runs import lines_of, typed
from tests.pictures import png
from tests.plugins.places import FOLDERS, installed

ASKED = ("great crew", "my bag lost the flight and the seat", "late bag")


@pytest.fixture
def asked(tmp_path):
    """A file without classes."""
    file = tmp_path / "asked.csv"
    file.write_text("number,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(ASKED)))
    return file


def test_classes_are_what_the_readme_s_lines_compute_and_no_label_is_needed(texts, tiny_model, asked):
    said = as_its_readme_says(texts / "adapter", ASKED, base=tiny_model)
    shares = said.logits_nc.double().softmax(-1)
    found = lines_of(texts, asked)
    assert [line["row"] for line in found] == [1, 2, 3]
    for line, share in zip(found, shares.tolist(), strict=True):
        assert [line["p(bad)"], line["p(good)"]] == pytest.approx(share, abs=1e-5)
        assert (line["label"], line["probability"]) == max(
            (("bad", line["p(bad)"]), ("good", line["p(good)"])), key=lambda one: one[1]
        )


def test_an_adapter_carried_elsewhere_predicts_the_same(texts, tiny_model, asked, tmp_path):
    moved = shutil.copytree(texts / "adapter", tmp_path / "moved")
    with pytest.raises(SettingsError, match=r"is not a folder"):
        typed("predict", moved, asked)
    assert lines_of(moved, asked, "--base", tiny_model) == lines_of(texts, asked)


def test_csv_has_the_same_columns_and_a_row_without_an_answer_says_why(texts, asked, tmp_path):
    asked.write_text("text\n   \n" + 'my "bag\n' + f"{ASKED[0]}\n")
    out = tmp_path / "out.csv"
    said = typed("predict", texts, asked, "--out", out, "--with-input").stderr
    with out.open() as file:
        empty, quote, whole = csv.DictReader(file)
    assert (empty["error"], quote["error"]) == ("nothing in column 'text'", "a quote inside the cell of column 'text'")
    assert (whole["row"], whole["text"], whole["error"]) == ("3", ASKED[0], "")
    assert float(whole["p(bad)"]) + float(whole["p(good)"]) == pytest.approx(1)
    assert "Rows: 3, written to" in said
    assert "without an answer: 2, and why" in said


def test_a_file_that_is_there_is_left_and_one_that_fails_is_not_begun(texts, asked, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(SettingsError, match=r"has no column 'txt'; did you mean 'text'\? It has number, text\. Say"):
        typed("predict", texts, asked, "--out", out, "--column", "text=txt")
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [asked]
    out.write_text("mine")
    with pytest.raises(SettingsError, match=r"is there already"):
        typed("predict", texts, asked, "--out", out)
    assert out.read_text() == "mine"
    with pytest.raises(SettingsError, match=r"answers are written as \.csv or \.jsonl; call it out\.jsonl"):
        typed("predict", texts, asked, "--out", tmp_path / "out.xlsx")
    with pytest.raises(SettingsError, match=r"there is no folder .*nowhere; make it"):
        typed("predict", texts, asked, "--out", tmp_path / "nowhere" / "out.csv")


def test_a_column_of_another_name_is_named(texts, asked, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(asked.read_text().replace("text", "message", 1))
    assert lines_of(texts, other, "--column", "text=message") == lines_of(texts, asked)
    other.with_name("bare.csv").write_text("message\nlate bag\n")
    with pytest.raises(SettingsError, match=r"has no column 'text'; it has message\. Say .* --column text=message\.$"):
        typed("predict", texts, other.with_name("bare.csv"))
    with pytest.raises(SettingsError, match=r"--column message: write it as text=NAME"):
        typed("predict", texts, other, "--column", "message")
    with pytest.raises(
        SettingsError, match=r"--column msg=\.\.\.: the task sequence-classification has no such column; it"
    ):
        typed("predict", texts, other, "--column", "msg=message")


def test_rows_of_a_packaged_source_are_answered_whatever_classes_it_has(texts):
    opened = open_result(texts)
    naming = Naming.of(None, opened.on.task, renamed={}, form=None)
    given = asked_rows("airlines", naming, results_of(opened.on.task), stand_in="bad")[:20]
    found = list(predicted(opened, given, results_of(opened.on.task), most_tokens=1, with_input=False))
    assert {line.get("label") for line in found} <= {"bad", "good"}
    assert not any("error" in line for line in found)


def test_rows_of_somebody_s_own_source_are_answered_and_judged_with_their_clients(texts, monkeypatch):
    open_to("any")
    with installed(monkeypatch, FOLDERS["source"]):
        found = lines_of(texts, "fedlora_tickets:TICKETS")
        said = json.loads(typed("eval", texts, "fedlora_tickets:TICKETS", "--json").stdout)
        with pytest.raises(SettingsError, match="did you mean fedlora_tickets:TICKETS"):
            lines_of(texts, "fedlora_tickets:TICKET")
    assert len(found) == said["rows"] == 240
    assert not any("error" in line for line in found)
    assert set(said["by_client"]) == {"east", "north", "south", "west"}


def test_pictures_of_a_folder_are_named_whether_or_not_a_class_s_folder_holds_them(pictures, tmp_path):
    run, folder = pictures
    of_folders = {line["file"]: line["label"] for line in lines_of(run, folder)}
    assert of_folders["red/light/0.png"] in ("dark", "light")
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(folder / "red" / "light" / "0.png", flat / "a.png")
    (flat / "b.png").write_bytes(b"no image")
    one, other = lines_of(run, flat)
    assert (one["file"], one["label"]) == ("a.png", of_folders["red/light/0.png"])
    assert (other["file"], other["error"]) == ("b.png", "no image that can be read")
    assert {**lines_of(run, flat / "a.png")[0], "row": 1} == one


def test_a_stray_table_beside_pictures_is_passed_over(pictures, tmp_path):
    run, folder = pictures
    copied = shutil.copytree(folder, tmp_path / "pictures")
    (copied / "notes.csv").write_text("when,who\n1,me\n")
    assert lines_of(run, copied) == lines_of(run, folder)
    assert typed("eval", run, copied, "--json").stdout == typed("eval", run, folder, "--json").stdout


def test_an_image_is_what_the_readme_s_lines_compute(pictures, tmp_path):
    run, _ = pictures
    file = tmp_path / "one.png"
    file.write_bytes(png(90))
    base = open_result(run).on.id
    names, _ = names_of_its_readme(run / "adapter", files=[str(file)], base=base)
    share = names["logits"].double().softmax(-1)[0].tolist()
    (line,) = lines_of(run, file)
    assert [line["p(dark)"], line["p(light)"]] == pytest.approx(share, abs=1e-5)


def test_an_answer_is_what_greedy_generation_gives_and_none_is_needed_in_the_file(answers, tmp_path):
    """As the README's lines generate it, with the same bound."""
    run, _ = answers
    questions = ["1+2?", "what is 7+9?", "a"]
    file = tmp_path / "asked.jsonl"
    rows = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = lines_of(run, file, "--max-tokens", 12)
    base = open_result(run).on.id
    for question, line in zip(questions, found, strict=True):
        names, _ = names_of_its_readme(run / "adapter", question=question, base=base)
        new = names["answer"][0, names["ids"].shape[1] :][:12]
        assert line["answer"] == names["tokenizer"].decode(new, skip_special_tokens=True)
        assert line["tokens"] == min(12, len(new))


def test_the_right_answer_of_a_row_is_not_read(answers, tmp_path):
    run, questions = answers
    rows = [json.loads(line) for line in questions.read_text().splitlines()[:3]]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"messages": row["messages"][:1]}) + "\n" for row in rows))
    assert lines_of(run, bare, "--max-tokens", 6) == lines_of(run, questions, "--max-tokens", 6)[:3]


def test_a_prompt_that_leaves_no_room_says_so(answers, tmp_path):
    run, _ = answers
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"prompt": "a" * 70}) + "\n" + json.dumps({"prompt": "a" * 60}) + "\n")
    long, fits = lines_of(run, file, "--format", "prompt-completion")
    assert long["error"] == "its prompt has 70 tokens, and the model reads 64 with the answer"
    assert fits["tokens"] <= 4


def test_rows_of_another_format_are_refused_with_its_name_and_what_is_no_conversation_says_so(answers, tmp_path):
    file = tmp_path / "asked.csv"
    file.write_text("prompt\n1+1?\n")
    with pytest.raises(SettingsError, match=r"has no column 'messages'; it has prompt\. .*--format prompt-completion"):
        lines_of(answers[0], file)
    file = tmp_path / "asked.jsonl"
    rows = [{"messages": "nonsense"}, {"messages": {"a": 1}}, {"messages": [{"role": "assistant", "content": "x"}]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [line["error"] for line in lines_of(answers[0], file)] == [
        "messages are a list of objects, and this is not JSON",
        "messages are a list of objects, each with a role and a content",
        "there is no message to answer",
    ]


def test_a_pair_s_margin_is_that_of_the_run_s_own_loss(pairs):
    """β is the run's: the mean of what is said of every pair is the metric of the whole file."""
    run, file = pairs
    found = lines_of(run, file)
    whole = json.loads(typed("eval", run, file, "--json").stdout)["fedlora"]["metrics"]
    margins = [line["margin"] for line in found]
    assert whole["reward_margin"]["value"] == pytest.approx(sum(margins) / len(margins), abs=1e-6)
    assert whole["reward_accuracy"]["value"] == pytest.approx(
        sum({"chosen": 1, "neither": 0.5, "rejected": 0}[line["prefers"]] for line in found) / len(found)
    )
    assert {line["prefers"] == "chosen" for line in found if line["margin"] > 1e-4} == {True}


def test_a_run_with_an_adapter_for_each_site_asks_which(texts, asked, tmp_path):
    for site in ("north", "south"):
        shutil.copytree(texts / "adapter", tmp_path / "run" / "adapters" / site)
    with pytest.raises(SettingsError, match=r"holds 2 adapters, one a site; give the folder of one of them: north, so"):
        typed("predict", tmp_path / "run", asked)


@torch.no_grad()
def test_what_is_opened_with_the_adapter_off_is_the_base(texts, tiny_model):
    from transformers import AutoModel

    from fedlora.adapters.untouched import untouched

    opened, ids = open_result(texts), torch.tensor([[2, 5, 8, 3]])
    plain = AutoModel.from_pretrained(tiny_model).eval()(ids).last_hidden_state
    with untouched(opened.model):
        with untouched(opened.model):
            pass
        off = opened.model(ids).last_hidden_state
    assert torch.equal(off, plain)
    assert not torch.equal(opened.model(ids).last_hidden_state, plain)

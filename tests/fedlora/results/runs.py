"""Small runs of every task that answers, and the commands as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from fedlora.cli import app
from tests.chats import chat_recipe, save_chat_model, save_questions
from tests.federations import CLIENTS, run, tiny_recipe
from tests.pictures import picture_recipe, save_pictures, save_vit
from tests.taggings import save_tagged, sentences, tagged_recipe


def typed(*words: object, said: str | None = None) -> Result:
    """What a command answers; what it raises is raised here."""
    answer = CliRunner().invoke(app, list(map(str, words)), input=said, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer


def lines_of(*words: object) -> list[dict]:
    """What `predict --json` writes."""
    return [json.loads(line) for line in typed("predict", *words, "--json").stdout.splitlines()]


def run_of_texts(folder: Path, model: str, source: str) -> Path:
    run(tiny_recipe(model, source, "strategy.name=fedit", "adapter.r=3", "train.steps=6"), folder)
    return folder


def run_of_answers(folder: Path) -> tuple[Path, Path]:
    """The run, and its file of questions."""
    questions = folder / "questions.jsonl"
    recipe = chat_recipe(save_chat_model(folder / "llama"), save_questions(questions), "train.lr=0.1", "train.steps=4")
    run(recipe, folder / "run")
    return folder / "run", questions


def run_of_pictures(folder: Path) -> tuple[Path, Path]:
    """The run, and its folder of pictures."""
    pictures = save_pictures(folder / "pictures", per_class=4)
    run(picture_recipe(save_vit(folder / "vit"), pictures, "data.held_out=6"), folder / "run")
    return folder / "run", Path(pictures)


def run_of_pairs(folder: Path) -> tuple[Path, Path]:
    """The run, and its file of pairs."""
    pairs = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"{a}+{b}? ", "chosen": f"{a + b}", "rejected": f"no {a}", "client": CLIENTS[a % 4]}
        for a in range(9)
        for b in range(4)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ("model.task=preference", "data.format=preference", "model.preference.beta=0.5", "train.lr=0.1")
    run(chat_recipe(save_chat_model(folder / "llama"), str(pairs), *task), folder / "run")
    return folder / "run", pairs


def run_of_tags(folder: Path, model: str) -> tuple[Path, Path]:
    """The run, and a file of words with their tags and clients."""
    run(tagged_recipe(model, save_tagged(folder / "texts")), folder / "run")
    rows = [
        {"tokens": words, "tags": tags, "client": client}
        for client in CLIENTS
        for words, tags in sentences(client, count=12)
    ]
    tagged = folder / "tagged.jsonl"
    tagged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "run", tagged


def run_of_sums(folder: Path, task: str, form: str) -> tuple[Path, Path]:
    """The run of a task that is asked of sums, and its file: questions with choices, and answers with labels."""
    rows = [
        {
            "prompt": f"{a}+{b}=", "choices": [f"{a + b + 1}", f"{a + b}", "no"], "answer": 1,
            "completion": f"{a + b + a % 2}", "label": a % 2 == 0, "client": CLIENTS[b],
        }
        for a in range(9)
        for b in range(4)
    ]  # fmt: skip
    sums = folder / "sums.jsonl"
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"model.task={task}", f"data.format={form}", "train.lr=0.1")
    run(chat_recipe(save_chat_model(folder / "llama"), str(sums), *settings), folder / "run")
    return folder / "run", sums

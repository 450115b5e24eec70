"""`fedlora chat`: base and adapted in turn, through a pipe as on a terminal, each with its own memory."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from fedlora.results.opened import open_result
from fedlora.results.writes.chat import Speaker
from fedlora.results.writes.greedy import pieces, written
from fedlora.settings import SettingsError
from tests.fedlora.results.runs import typed


@pytest.fixture(scope="module")
def opened(answers):
    return open_result(answers[0])


def speaker(opened, *, base: bool = False, most: int = 5) -> Speaker:
    return Speaker("one", opened, base, most)


def test_through_a_pipe_both_answer_every_line_under_their_names(answers):
    said = typed("chat", answers[0], "--max-tokens", 4, said="1+2?\n\n3+4?\n").stdout.splitlines()
    assert [line.partition(":")[0] for line in said] == ["base", "adapted", "base", "adapted"]
    alone = typed("chat", answers[0], "--max-tokens", 4, "--alone", said="1+2?\n").stdout
    assert alone.splitlines() == [said[1]]


def test_what_is_streamed_is_what_would_have_been_generated_and_the_base_is_the_base(opened):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(opened.on.id).eval()
    tokenizer = opened.base.processor
    for model, base in ((opened.model, False), (plain, True)):
        turn = [{"role": "user", "content": "1+2?"}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        batch = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        whole = model.generate(**batch, max_new_tokens=9, do_sample=False, eos_token_id=2)
        expected = tokenizer.decode(whole[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert "".join(speaker(opened, base=base, most=9).hears("1+2?")) == expected


def test_it_remembers_what_was_said_and_forgets_the_oldest_where_there_is_no_room(opened):
    one = speaker(opened)
    first = "".join(one.hears("1+2?"))
    assert one.turns == [{"role": "user", "content": "1+2?"}, {"role": "assistant", "content": first}]
    prompt, _ = one.prompt("3?")
    assert len(prompt) > len(speaker(opened).prompt("3?")[0])
    list(one.hears("a" * 25))
    assert one.turns[0]["content"] != "1+2?"
    with pytest.raises(ValueError, match=r"its prompt has \d+ tokens, and the model reads 64 with the answer"):
        list(one.hears("a" * 64))


def test_a_line_that_is_too_long_is_said_and_the_conversation_goes_on(answers):
    said = typed("chat", answers[0], "--alone", "--max-tokens", 3, said=f"{'a' * 80}\n1?\n").stdout
    assert "(not answered: its prompt has" in said
    assert said.rstrip().splitlines()[-1].startswith("adapted:")


def test_half_a_character_waits_for_its_other_half():
    class Bytes:
        def decode(self, tokens, skip_special_tokens):
            return bytes(tokens).decode(errors="replace")

    tokens = list("é!".encode())
    assert list(pieces(iter(tokens), Bytes())) == ["é", "!"]
    assert "".join(pieces(iter(tokens[:1]), Bytes())) == written(tokens[:1], Bytes())


def test_a_model_that_writes_nothing_is_refused(texts):
    with pytest.raises(SettingsError, match=r"writes no answers; `fedlora predict` says what it makes of rows"):
        typed("chat", texts)


def test_on_a_terminal_it_asks_answers_side_by_side_and_ends_plainly(answers):
    """A real terminal, and Ctrl-C; Ctrl-D is the end of a pipe."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedlora", "chat", str(answers[0]), "--max-tokens", "3"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown_until(ours, "> ")
        os.write(ours, b"1+2?\n")
        said = shown_until(ours, "> ")
        time.sleep(0.5)  # CPython waits for a line from a moment after it has written the prompt: as people are
        rest = interrupted(process, ours)
    os.close(ours)
    assert "base" in said
    assert "adapted" in said
    assert "Traceback" not in rest
    assert process.returncode == 0


def shown_until(terminal: int, end: str) -> str:
    """What is written there until it ends so."""
    said = ""
    while not said.endswith(end):
        said += os.read(terminal, 4096).decode(errors="replace")
    return said


def interrupted(process: subprocess.Popen[bytes], terminal: int) -> str:
    """What it writes from Ctrl-C on until it has ended. Python drops an interrupt that comes into a finalizer, and a
    person then presses again."""
    process.send_signal(signal.SIGINT)
    said = ""
    while True:
        if not select.select([terminal], [], [], 10)[0]:
            process.send_signal(signal.SIGINT)
            continue
        try:
            said += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            return said

"""Questions without noise: whether a task fails, what it weighs, how it is packed must not depend on one example."""

from __future__ import annotations

import pytest
import torch
from transformers import BertTokenizerFast

import client.round as round_module
from client.deployed import respond
from client.round import answer
from client.settings import ClientSettings, SiteData
from fedlora.config import ModelSettings
from fedlora.data.examples import IGNORED, encoded
from fedlora.data.row import text_row
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.refusal import Refusal
from fedlora.settings import SettingsError
from fedlora.wire.choice import Choice
from fedlora.wire.message import Expected, Schema, decode, state_hash
from tests.federations import save_tiny_model
from tests.privacy.models import Examples, classifier
from tests.privacy.rounds import coordinator, first_task, site
from tests.privacy.rounds import examples as tiny_examples
from tests.token_examples import Words, labels_n, token_examples, token_ids

MECHANISM = Mechanism(rate=0.5, noise_multiplier=1.0, clip=0.5, steps=10, expected_batch=8.0)

SHORT = ModelSettings(max_tokens=8)


def engine_on(model, **options) -> PrivateEngine:
    return PrivateEngine(model, MECHANISM, examples=6, source=SeededSource(0), **options)


def failing_with(loss, bad: int):
    def loss_per_example(indices):
        if bad in indices:
            raise IndexError("index out of range in self")
        return loss(indices)

    return loss_per_example


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
@pytest.mark.parametrize("microbatch", [None, 2])
def test_after_a_rehearsal_an_example_that_cannot_be_computed_moves_the_sum_by_zero(microbatch, gradients):
    examples, model = Examples(6), classifier(dtype=torch.float64)
    loss, rest = examples.loss(model), torch.tensor([0, 1, 2, 4, 5])
    with engine_on(model, microbatch=microbatch, gradients=gradients) as engine:
        engine.rehearse(Examples(3).loss(model))
        with_it = engine.clipped_sum(torch.arange(6), failing_with(loss, 3))
        assert engine.nonfinite_examples == 1
        without = engine.clipped_sum(rest, loss)
    for parameter, total in without.items():
        torch.testing.assert_close(with_it[parameter], total, rtol=1e-12, atol=1e-13)


def test_without_a_rehearsal_a_failure_is_an_error():
    examples, model = Examples(6), classifier()
    with engine_on(model) as engine, pytest.raises(IndexError):
        engine.clipped_sum(torch.arange(6), failing_with(examples.loss(model), 3))


def test_what_couples_examples_is_refused_in_the_rehearsal_and_the_data_are_not_asked_again():
    examples, model = Examples(6), classifier()
    loss = examples.loss(model)
    with pytest.raises(Refusal, match="depends on another one"), engine_on(model) as engine:
        engine.rehearse(lambda indices: loss(indices) * loss(indices).mean())
    model, calls = classifier(), []

    def counted(indices):
        calls.append(len(indices))
        return Examples(6).loss(model)(indices)

    with engine_on(model) as engine:
        engine.rehearse(Examples(3).loss(model))
        engine.clipped_sum(torch.arange(6), counted)
    assert calls == [6]


def test_a_rehearsal_that_is_not_finite_is_a_refusal():
    """With values under which nothing can be computed, training would be on noise alone."""
    model = classifier()
    with (
        pytest.raises(Refusal, match="not finite, so that every example would count as zero"),
        engine_on(model) as engine,
    ):
        engine.rehearse(lambda indices: Examples(3).loss(model)(indices) * float("nan"))


class NoUnknownWords(BertTokenizerFast):
    """A tokenizer of somebody who wants to know whether a word occurs."""

    def __call__(self, texts, **options):
        if any("lost" in text for text in texts):
            raise ValueError("missing [UNK] token")
        return super().__call__(texts, **options)


def test_a_row_that_cannot_be_used_stays_in_and_has_no_loss(tmp_path, caplog):
    tokenizer = NoUnknownWords.from_pretrained(save_tiny_model(tmp_path / "model"))
    rows = [text_row("great crew", "good", ""), text_row("my bag lost", "bad", ""), text_row("the seat", "secret", "")]
    with pytest.raises(SettingsError, match="'secret' is not one of the run's classes"):
        encoded(rows, ("good", "bad"), tokenizer, on=SHORT)
    examples = encoded(rows, ("good", "bad"), tokenizer, on=SHORT, ignore_unusable=True)
    assert labels_n(examples).tolist() == [0, IGNORED, IGNORED]
    assert [len(row) for row in token_ids(examples)] == [4, 1, 4]
    assert "2 of 3 examples are ignored" in caplog.text


class PanicException(BaseException):
    """What a tokenizer that is written in Rust raises when it panics is no `Exception`."""


NONSENSE = [None, "ids", [-1], [2**40], [1.5], ["a"], [True], [[1]], list(range(2, 12))]


@pytest.mark.parametrize("panics", [False, True])
@pytest.mark.parametrize("nonsense", NONSENSE, ids=str)
def test_a_text_of_which_a_tokenizer_makes_nonsense_has_no_loss_and_fails_nothing(tmp_path, nonsense, panics):
    class Odd(BertTokenizerFast):
        def __call__(self, texts, **options):
            if panics and len(texts) > 1:
                raise PanicException("index out of bounds")
            found = super().__call__(texts, **options)["input_ids"]
            return {"input_ids": [nonsense if "lost" in text else ids for text, ids in zip(texts, found, strict=True)]}

    tokenizer = Odd.from_pretrained(save_tiny_model(tmp_path / "model"))
    rows = [text_row("great crew", "good", ""), text_row("my bag lost", "bad", ""), text_row("the seat", "bad", "")]
    examples = encoded(rows, ("good", "bad"), tokenizer, on=SHORT, ignore_unusable=True)
    assert labels_n(examples).tolist() == [0, IGNORED, 1]
    assert [len(row) for row in token_ids(examples)] == [4, 1, 4]


@pytest.mark.parametrize("answer", [[], [[1]], None, 7, {"input_ids": 3}])
def test_a_tokenizer_that_answers_for_other_texts_than_it_was_given_is_not_believed(tmp_path, answer):
    class Deaf(BertTokenizerFast):
        def __call__(self, texts, **options):
            return {"input_ids": answer}

    tokenizer = Deaf.from_pretrained(save_tiny_model(tmp_path / "model"))
    rows = [text_row("great crew", "good", ""), text_row("my bag lost", "bad", "")]
    examples = encoded(rows, ("good", "bad"), tokenizer, on=SHORT, ignore_unusable=True)
    assert len(examples) == 2
    assert labels_n(examples).tolist() == ([0, 1] if answer == [[1]] else [IGNORED, IGNORED])


def test_a_token_that_the_model_does_not_know_empties_its_example():
    examples = tiny_examples(3)
    model = Words(50)
    strange = token_examples([*token_ids(examples)[:2], torch.tensor([3, 99])], labels_n(examples), 0)
    known = strange.usable_by(model)
    assert labels_n(known).tolist() == [*labels_n(examples)[:2].tolist(), IGNORED]
    assert token_ids(known)[2].tolist() == [0]
    assert examples.usable_by(model) is examples


@pytest.mark.parametrize(("extra", "labels"), [("my seat,secret", ("good", "bad")), ("", ("good", "bad"))])
def test_a_site_under_privacy_answers_the_same_whether_or_not_it_holds_a_label(tmp_path, extra, labels):
    model = save_tiny_model(tmp_path / "model")
    rows = [f"{word} flight {other},{'good' if word == 'great' else 'bad'}" for word in ("great", "late")
            for other in ("crew", "bag", "seat", "my", "the")]  # fmt: skip
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, extra]) + "\n")
    (tmp_path / "test.csv").write_text("text,label\ngreat my crew,good\n")
    settings = ClientSettings(
        site="a", coordinator="c:1", state=tmp_path / "state",
        data=SiteData(train=tmp_path / "rows.csv", test=tmp_path / "test.csv"), policy=tmp_path / "policy.yaml",
    )  # fmt: skip
    settings.policy.write_text(f"base_models: [{model}]\n")
    report, blob = respond(*first_task(model, labels), settings)
    assert (report.outcome, report.code, report.examples) == ("trained", None, 10)
    assert blob


def test_codec_and_density_are_chosen_by_what_is_released_alone(tmp_path, monkeypatch):
    """`codec: auto` looks at the update after the noise: what it is shown is what the plain codec would have sent."""
    server = coordinator(tmp_path / "model")
    shown = []
    monkeypatch.setattr(round_module, "choose", lambda delta, settings: (shown.append(delta), Choice("fp32", 1.0))[1])
    asked, state = server.ask(1, wire={"codec": "auto", "error_feedback": False})
    report, blob = answer(asked, state, site(tmp_path / "site"))
    assert report.outcome == "trained"
    schema = Schema.of(server.adapter.tensors(asked.trains))
    sent = decode(blob, schema, Expected("update", asked.run, 1, state_hash(server.adapter.tensors()))).tensors
    (delta,) = shown
    assert all(torch.equal(delta[name], tensor) for name, tensor in sent.items())


def test_a_task_that_fails_by_the_data_is_answered_all_the_same(tmp_path, monkeypatch):
    server = coordinator(tmp_path / "model")
    here = site(tmp_path / "site")
    token_ids(here.data.train)[7] = torch.tensor([49, 50, 51])  # the model knows 50 tokens
    real = type(here.data.train).batch

    def batch(self, indices, **options):
        if len(self) == 60 and len(indices) > 5:  # of the site's own, after the rehearsal
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, indices, **options)

    monkeypatch.setattr(type(here.data.train), "batch", batch)
    report, blob = answer(*server.ask(1, train={"batch_size": 60, "steps": 2}), here)
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    entries = read_ledger(LedgerFiles(tmp_path / "site", "default"), public_key=None).entries
    assert [entry.kind for entry in entries] == ["charge", "answer"]

"""A tag a word: where its label stands, what is learnt of it, and what of a row that cannot be used."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch.nn import functional
from transformers import AutoModelForTokenClassification, BertConfig, BertTokenizerFast, PreTrainedTokenizerFast

from fedlora.config import ModelSettings
from fedlora.data.examples import encoded
from fedlora.data.form import TOKENS_AND_TAGS
from fedlora.data.lengths import extent_of
from fedlora.data.row import Row
from fedlora.models.base import load_base
from fedlora.settings import SettingsError
from fedlora.tasks.base import IGNORED
from fedlora.tasks.registry import task_named
from tests.federations import save_tiny_model
from tests.privacy.architectures import CONFIGS
from tests.taggings import LABELS

TASK = task_named("token-classification")
WORDS, TAGS = ["from", "ithaca", "to", "new", "york"], ["O", "B-TOWN", "O", "B-TOWN", "I-TOWN"]


def row(words: object, tags: object) -> Row:
    return Row(TOKENS_AND_TAGS, (json.dumps(words), json.dumps(tags)))


@pytest.fixture
def pieces(tmp_path) -> BertTokenizerFast:
    """Knows `ithaca` in three pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "from", "to", "new", "york", "ith", "##ac", "##a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))


@pytest.fixture
def bytewise() -> PreTrainedTokenizerFast:
    """Every word but the first begins with its blank, as RoBERTa and GPT-2 have it."""
    core = ByteLevelBPETokenizer(add_prefix_space=False, trim_offsets=False)
    core.train_from_iterator(["from to new york", "ith aca"], vocab_size=300, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, pad_token="!")


def encode(rows, tokenizer, *, longest=16, each=False, labels=LABELS):
    return TASK.encode(rows, tokenizer, labels, longest=longest, padding=0, each=each)


def named(item) -> list[str]:
    return ["." if label == IGNORED else LABELS[label] for label in item["labels"].tolist()]


def test_a_word_s_tag_is_at_its_first_piece_and_nowhere_else(pieces):
    (item,) = encode([row(WORDS, TAGS)], pieces)
    assert named(item) == [".", "O", "B-TOWN", ".", ".", "O", "B-TOWN", "I-TOWN", "."]


def test_so_it_is_where_a_word_begins_with_its_blank(bytewise):
    (item,) = encode([row(WORDS, TAGS)], bytewise, longest=64)
    firsts = [place for place, label in enumerate(item["labels"].tolist()) if label != IGNORED]
    assert [LABELS[item["labels"][place]] for place in firsts] == TAGS
    ends = [*firsts[1:], len(item["input_ids"])]
    read = [bytewise.decode(item["input_ids"][first:end]) for first, end in zip(firsts, ends, strict=True)]
    assert [word.strip() for word in read] == WORDS


def test_a_word_of_which_nothing_is_read_has_no_label_and_moves_no_other(pieces):
    (item,) = encode([row(["from", "\u200d", "york"], ["O", "O", "B-TOWN"])], pieces)
    assert named(item) in ([".", "O", "B-TOWN", "."], [".", "O", "O", "B-TOWN", "."])
    assert named(item)[-2] == "B-TOWN"


def test_what_is_cut_is_not_learnt_and_is_counted(pieces):
    rows = [row(WORDS, TAGS), row(["to", "york"], ["O", "O"])]
    on = ModelSettings(task="token-classification", max_tokens=6)
    examples = encoded(rows, LABELS, pieces, on=on)
    assert named(examples.items[0]) == [".", "O", "B-TOWN", ".", ".", "."]
    found = extent_of(rows, examples, pieces, on=on)
    assert (found.longest, found.cut, found.shortened, found.unlearnt) == (9, 1, 1, 0)


@pytest.mark.parametrize(
    ("words", "tags", "said"),
    [
        (WORDS, TAGS[1:], "example 2 cannot be used: 5 tokens have 4 tags"),
        ([["from"]], ["O"], "its tokens and tags are no lists of texts"),
        (WORDS, "O", "its tokens and tags are no lists of texts"),
    ],
)
def test_a_row_that_is_no_words_with_tags_is_refused_by_its_number_and_ignored_by_itself(pieces, words, tags, said):
    rows = [row(WORDS, TAGS), row(words, tags)]
    with pytest.raises(SettingsError, match=said) as caught:
        encode(rows, pieces)
    assert "ithaca" not in str(caught.value)
    kept, ignored = encode(rows, pieces, each=True)
    assert named(kept) == named(encode(rows[:1], pieces)[0])
    assert (ignored["labels"] == IGNORED).all()


def test_a_tag_that_the_run_does_not_have_is_refused_or_its_row_ignored(pieces):
    rows = [row(WORDS, TAGS), row(["york"], ["B-STATE"])]
    with pytest.raises(SettingsError, match=r"the label 'B-STATE' is not one of the run's classes"):
        encode(rows, pieces)
    assert (encode(rows, pieces, each=True)[1]["labels"] == IGNORED).all()


def test_classes_that_are_no_tags_are_refused(pieces):
    with pytest.raises(SettingsError, match=r"'TOWN' is no tag"):
        encode([row(["york"], ["TOWN"])], pieces, labels=("O", "TOWN"))


def test_a_slow_tokenizer_is_refused_before_any_row(pieces, monkeypatch):
    monkeypatch.setattr(type(pieces), "is_fast", False)
    with pytest.raises(SettingsError, match=r"is a slow tokenizer; choose a model with a fast one"):
        TASK.require_readable(TOKENS_AND_TAGS, pieces)


@torch.no_grad()
def test_a_loss_is_the_mean_over_the_example_s_words_and_a_figure_over_the_set_s(pieces):
    model = AutoModelForTokenClassification.from_config(CONFIGS["bert"]).eval()
    TASK.prepare(model, longest=16, outputs=len(LABELS))
    items = encode([row(WORDS, TAGS), row(["to", "york"], ["O", "B-TOWN"])], pieces)
    losses = TASK.losses(model, TASK.collate(items, padding=0))
    totals = []
    for item, loss in zip(items, losses, strict=True):
        logits = model(input_ids=item["input_ids"][None]).logits[0]
        words = item["labels"] != IGNORED
        each = functional.cross_entropy(logits[words], item["labels"][words], reduction="none")
        assert loss == pytest.approx(each.mean().item(), rel=1e-5)
        totals.append(float(each.sum()))
    measured = TASK.measure(model, TASK.collate(items, padding=0))
    assert measured["loss"].value == pytest.approx(sum(totals) / 7, rel=1e-5)
    assert measured["token_accuracy"].weight == 7
    assert measured["recall"].weight == 3


def test_a_checkpoint_s_own_classifier_is_not_part_of_the_base(tmp_path):
    """Of a model that was fine-tuned to other tags, and of one that never was: the same base, with our outputs."""
    folder = save_tiny_model(tmp_path / "base")
    tuned = AutoModelForTokenClassification.from_pretrained(folder, num_labels=7)
    tuned.save_pretrained(tmp_path / "tuned")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path / "tuned")
    on = ModelSettings(id=folder, task="token-classification", max_tokens=16)
    base, same = load_base(on, LABELS), load_base(on, LABELS)
    assert base.fingerprint == same.fingerprint
    assert base.model.classifier.out_features == len(LABELS)
    found = load_base(on.model_copy(update={"id": str(tmp_path / "tuned")}), LABELS)
    assert found.model.classifier.out_features == len(LABELS)


def test_a_model_without_a_classifier_is_refused():
    model = AutoModelForTokenClassification.from_config(BertConfig(**CONFIGS["bert"].to_dict()))
    del model.classifier
    with pytest.raises(SettingsError, match=r"BertForTokenClassification has no module `classifier`; choose an enc"):
        TASK.prepare(model, longest=16, outputs=3)

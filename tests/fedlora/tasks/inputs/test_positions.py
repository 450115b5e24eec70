"""How long a text a model reads, and how wide its answer is, are seen from the model: a config's words can be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlora.config import ModelSettings
from fedlora.models.base import load_base
from fedlora.settings import SettingsError
from fedlora.tasks.inputs.positions import TooLongError, try_full_length
from fedlora.tasks.registry import task_named
from tests.privacy.architectures import save

LABELS = ("bad", "good")


def on(folder: str, **values) -> ModelSettings:
    return ModelSettings(**{"id": folder, "max_tokens": 16, **values})


def test_roberta_has_two_positions_fewer_than_its_config_says(tmp_path):
    """Its table has 34 rows; the first is never used and the second is the padding's."""
    folder = save("roberta", tmp_path)
    assert load_base(on(folder, max_tokens=32), LABELS).model
    for tokens in (33, 34):
        with pytest.raises(SettingsError, match=rf"model\.max_tokens={tokens} is more than the 32 positions.*lower it"):
            load_base(on(folder, max_tokens=tokens), LABELS)


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt"])
def test_a_model_with_a_table_of_positions_is_usable_up_to_its_last(name, tmp_path):
    folder = save(name, tmp_path)
    assert load_base(on(folder, max_tokens=32), LABELS).model
    with pytest.raises(SettingsError, match="more than the 32 positions"):
        load_base(on(folder, max_tokens=33), LABELS)


@pytest.mark.parametrize("name", ["xlnet", "falcon"])
def test_a_model_without_a_table_has_no_limit(name, tmp_path):
    assert load_base(on(save(name, tmp_path), max_tokens=200), LABELS).model


def test_the_head_is_as_wide_as_what_comes_out(tmp_path):
    """OPT with a last projection gives word_embed_proj_dim numbers, not hidden_size."""
    base = load_base(on(save("opt", tmp_path)), LABELS)
    assert base.model.head.in_features == 8
    batch = {
        "input_ids": torch.tensor([[3, 4, 5]]),
        "attention_mask": torch.ones(1, 3).long(),
        "labels": torch.zeros(1).long(),
    }
    assert task_named("sequence-classification").losses(base.model, batch).isfinite().all()


def test_a_table_is_never_asked_for_a_row_that_it_lacks(tmp_path):
    """On CUDA that would end the process' use of the device: it is seen before."""
    model = load_base(on(save("gpt2", tmp_path)), LABELS).model
    asked: list[int] = []
    model.wpe.forward = lambda ids: (
        asked.append(int(ids.max())),
        nn.Embedding.forward(model.wpe, ids),
    )[1]
    with pytest.raises(TooLongError, match="32 positions"):
        try_full_length(model, tokens=40)
    assert asked == []
    assert not model.wpe._forward_pre_hooks


def test_a_model_that_cannot_read_the_text_at_all_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.BertModel.forward", lambda self, **_: {}["hidden"])
    with pytest.raises(
        SettingsError, match=r"cannot read a text of model\.max_tokens=16 tokens \(KeyError: 'hidden'\)"
    ):
        load_base(on(save("bert", tmp_path)), LABELS)


def test_an_architecture_that_cannot_recompute_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(SettingsError, match=r"XLNetModel\) cannot recompute.*gradient_checkpointing to false"):
        load_base(on(save("xlnet", tmp_path), gradient_checkpointing=True), LABELS)

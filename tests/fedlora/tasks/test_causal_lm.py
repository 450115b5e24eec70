"""Causal language modelling: what is learnt of a row, and a loss that never holds all logits."""

import json
import math

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedTokenizerFast

from fedlora.data.form import MESSAGES, PROMPT_AND_COMPLETION, TEXT
from fedlora.data.row import Row
from fedlora.settings import SettingsError
from fedlora.tasks.answering import token_loss
from fedlora.tasks.answering.token_loss import likeliest, token_nats
from fedlora.tasks.answers import head_of, hidden_of, item_of
from fedlora.tasks.base import IGNORED
from fedlora.tasks.causal_lm import learned_ids
from fedlora.tasks.inputs import learned_text
from fedlora.tasks.registry import task_named
from tests.chats import tokenizer_with
from tests.privacy.architectures import CONFIGS

TASK = task_named("causal-lm")


def messages(*turns: tuple[str, str]) -> Row:
    return Row(MESSAGES, (json.dumps([{"role": role, "content": content} for role, content in turns]),))


def written(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def learned_of(row: Row, *, longest: int = 1000, tokenizer: PreTrainedTokenizerFast | None = None) -> str:
    """The learnt tokens as text."""
    own = tokenizer or tokenizer_with()
    ids, learned = learned_ids(row, own, longest=longest)
    return written([number for number, learns in zip(ids, learned, strict=True) if learns], own)


def test_of_messages_the_assistants_turns_are_learnt_with_their_end_and_nothing_else():
    row = messages(("user", "hi"), ("assistant", "ho"), ("user", "and"), ("assistant", "so"), ("user", "unanswered"))
    assert learned_of(row) == "ho<e>so<e>"
    ids, _ = learned_ids(row, tokenizer_with(), longest=1000)
    whole = "<s>user\nhi<e>\n<s>assistant\nho<e>\n<s>user\nand<e>\n<s>assistant\nso<e>"
    assert written(ids, tokenizer_with()) == whole


def test_a_template_that_does_not_end_its_turns_gets_the_end_token():
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    bare = turns + "{% if add_generation_prompt %}[assistant] {% endif %}"
    row = messages(("user", "hi"), ("assistant", "ho"))
    assert learned_of(row, tokenizer=tokenizer_with(bare)) == "ho<e>"


def test_of_a_prompt_with_a_completion_the_completion_is_learnt_and_of_a_text_all_of_it():
    assert learned_of(Row(PROMPT_AND_COMPLETION, ("Q: why?", " because"))) == " because<e>"
    assert learned_of(Row(PROMPT_AND_COMPLETION, ("Q: why?", " because<e>"))) == " because<e>"
    assert learned_of(Row(TEXT, ("once",))) == "once<e>"


def test_what_is_cut_is_not_learnt_and_an_answer_that_is_cut_away_has_no_loss():
    row = Row(PROMPT_AND_COMPLETION, ("Q: why?", " because"))
    assert learned_of(row, longest=10) == " be"
    (item,) = TASK.encode([row], tokenizer_with(), (), longest=7, padding=0, each=False)
    assert (item["labels"] == IGNORED).all()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row(MESSAGES, ("{}",)), "messages are a list"),
        (Row(MESSAGES, ('["secret"]',)), "messages are a list"),
        (Row(MESSAGES, ("secret",)), "example 2"),
        (messages(("user", "secret")), "no message is the assistant"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_number_and_is_ignored_by_a_site_under_privacy(row, said):
    good = messages(("user", "hi"), ("assistant", "ho"))
    with pytest.raises(SettingsError, match=said) as refused:
        TASK.encode([good, row], tokenizer_with(), (), longest=50, padding=0, each=False)
    assert "example 2 cannot be used" in str(refused.value)
    assert "secret" not in str(refused.value)
    kept, ignored = TASK.encode([good, row], tokenizer_with(), (), longest=50, padding=0, each=True)
    assert (ignored["labels"] == IGNORED).all()
    assert not (kept["labels"] == IGNORED).all()


def test_a_template_that_refuses_the_roles_is_a_row_s_own_trouble_and_no_template_everybody_s():
    strict = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('secret') }}{% endif %}{% endfor %}"
    row = messages(("tool", "x"), ("assistant", "ho"))
    with pytest.raises(SettingsError, match=r"example 1 cannot be used: the chat template refuses the messages"):
        TASK.encode([row], tokenizer_with(strict), (), longest=50, padding=0, each=False)
    for whatever in (row, Row(MESSAGES, ("{}",))):  # what one row holds must not decide whether a site fails
        with pytest.raises(SettingsError, match="has no chat template"):
            TASK.encode([whatever], tokenizer_with(None), (), longest=50, padding=0, each=True)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_losses_are_those_of_the_models_own_logits(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    TASK.prepare(model, longest=16, outputs=0)
    items = [item_of(list(range(3, 3 + n)), [place >= n // 2 for place in range(n)]) for n in (9, 4, 12)]
    batch = TASK.collate(items, padding=0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    nats = functional.cross_entropy(logits.mT, batch["labels"][:, 1:], reduction="none", ignore_index=IGNORED)
    counts = (batch["labels"][:, 1:] != IGNORED).sum(1)
    torch.testing.assert_close(TASK.losses(model, batch), nats.sum(1) / counts)
    with torch.no_grad():
        measured = TASK.measure(model, batch)
    assert measured["loss"].value == pytest.approx(float(nats.detach().sum() / counts.sum()))
    assert measured["perplexity"].value == pytest.approx(math.exp(measured["loss"].value))
    assert measured["loss"].weight == measured["token_accuracy"].weight == int(counts.sum())


def test_a_token_s_loss_and_gradient_are_the_plain_ones_in_chunks_of_any_size(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    weight, bias = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((11, 5), (11,)))
    chosen, weighing = torch.tensor([3, 0, 10, 4, 4, 9, 1]), torch.randn(7, dtype=torch.float64, generator=draw)
    plain = functional.cross_entropy(functional.linear(hidden, weight, bias), chosen, reduction="none")
    (expected,) = torch.autograd.grad((plain * weighing).sum(), hidden)
    for size in (1, 3, 100):
        monkeypatch.setattr(token_loss, "CHUNK", size)
        found = token_nats(hidden, weight, bias, chosen)
        (gradient,) = torch.autograd.grad((found * weighing).sum(), hidden)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(likeliest(hidden, weight, bias), functional.linear(hidden, weight, bias).argmax(-1))


def test_how_many_other_tokens_there_are_changes_no_bit_of_a_token_s_loss_or_gradient():
    """Kernels are chosen by the number of rows: the packaged model's private runs were refused for it in round 2."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(200, 96, generator=draw), torch.randn(3000, 96, generator=draw)
    found = []
    for tokens in (1, 2, 3, 5, 17, 64, 65, 200):
        few = hidden[:tokens].clone().requires_grad_()
        nats = token_nats(few, weight, None, torch.arange(tokens))
        (gradient,) = torch.autograd.grad(nats[0], few)
        found.append((nats[0].detach(), gradient[0]))
    for nats, gradient in found[1:]:
        assert torch.equal(nats, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_no_more_logits_are_held_than_a_chunk_has(monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK", 4)
    seen, plain = [], functional.linear

    def watched(*given: torch.Tensor) -> torch.Tensor:
        seen.append(plain(*given).shape)
        return plain(*given)

    monkeypatch.setattr(token_loss.functional, "linear", watched)
    token_nats(torch.randn(10, 5, requires_grad=True), torch.randn(11, 5), None, torch.zeros(10, dtype=torch.long))
    assert seen == [(4, 11)] * 3


def test_a_model_that_caps_its_logits_is_refused():
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5,
    )  # fmt: skip
    with pytest.raises(SettingsError, match="scaled or capped"):
        TASK.prepare(AutoModelForCausalLM.from_config(config).eval(), longest=8, outputs=0)


def test_an_adapted_output_matrix_is_refused():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()
    model.lm_head.lora_A = torch.nn.Identity()
    with pytest.raises(SettingsError, match=r"names the model's output matrix"):
        head_of(model)
    assert hidden_of(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)}).shape[:2] == (1, 3)


def test_of_a_conversation_no_more_turns_are_rendered_than_can_be_read(monkeypatch):
    seen, plain = [], learned_text.rendered
    monkeypatch.setattr(learned_text, "rendered", lambda *given, **how: seen.append(1) or plain(*given, **how))
    row = messages(*[("user", "a"), ("assistant", "b")] * 500)
    (item,) = TASK.encode([row], tokenizer_with(), (), longest=20, padding=0, each=False)
    assert (len(item["input_ids"]), len(seen)) == (20, 40)


def test_of_no_token_at_all_there_is_one_that_is_not_learnt():
    item = item_of([], [])
    assert (item["input_ids"].tolist(), item["labels"].tolist()) == ([0], [IGNORED])

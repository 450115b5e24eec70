"""Works that are trained together come to what each comes to alone; what cannot be together is not, and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from client.round import admit, answer
from client.site import Parts
from client.together import trainer as trainer_module
from client.together.private import ClientsEngine
from client.together.rounds import answer_together
from client.together.trainer import Together, train_group
from client.trainer import OneByOne
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.updates import Factor
from tests.privacy.rounds import coordinator, site

COUNTS = (40, 60, 5)
"""Examples of each site: the last has fewer than a batch."""

PRIVATE = {"epsilon": 3.0, "insecure_seed": 5, "report_metrics": True}
BOTH = pytest.mark.parametrize("privacy", [{}, PRIVATE], ids=["plain", "private"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return coordinator(tmp_path_factory.mktemp("model"))


def works(server, folder, *, counts=COUNTS, lengths=False, **changes):
    """Admitted, of sites of so many examples; of texts of unlike `lengths`."""
    sites = [site(folder / str(n), name=f"c{n}", count=count) for n, count in enumerate(counts)]
    if lengths:
        sites = [replace(here, data=Parts(cut(here.data.train), here.data.test)) for here in sites]
    return [admit(*server.ask(1, **changes), here) for here in sites]


def cut(examples):
    items = [{**item, "input_ids": item["input_ids"][: 2 + n % 5]} for n, item in enumerate(examples.items)]
    return replace(examples, items=items)


def tensors(trained):
    return trained.adapter.tensors()


def require_equal(found, expected, *, close=1e-6):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.received == other.received
        assert one.steps.loss == pytest.approx(other.steps.loss, rel=1e-5)
        for name, tensor in tensors(other).items():
            torch.testing.assert_close(tensors(one)[name], tensor, atol=close, rtol=close)


ADAMW = {"optimizer": "adamw", "lr": 0.01, "batch_size": 4, "max_grad_norm": 0.3, "proximal_mu": 0.1}
SCHEDULED = {"schedule": "cosine", "schedule_over": "steps", "warmup": 0.2, "microbatch_size": 3}


@pytest.mark.parametrize(
    ("train", "privacy"),
    [
        pytest.param(ADAMW, {}, id="plain, adamw"),
        pytest.param(SCHEDULED, {}, id="plain, sgd"),
        pytest.param(SCHEDULED, PRIVATE, id="private, sgd", marks=pytest.mark.slow),
        pytest.param(ADAMW, PRIVATE, id="private, adamw", marks=pytest.mark.slow),
    ],
)
def test_together_is_what_each_is_alone(server, tmp_path, privacy, train, monkeypatch):
    privacy = privacy or {"epsilon": None}
    trains = (Factor.A, Factor.B, Factor.DENSE)
    asked = {"privacy": privacy, "train": {"batch_size": 8, "steps": 3, **train}, "trains": trains}
    counts = COUNTS if privacy["epsilon"] is None else (40, 60, 30)
    expected = list(OneByOne().train(works(server, tmp_path / "alone", counts=counts, lengths=True, **asked)))
    said: list[str] = []
    monkeypatch.setattr(trainer_module, "OneByOne", None)
    monkeypatch.setattr("client.together.plain.WORTH", 0)  # in microbatches as small nothing is gained
    admitted = works(server, tmp_path / "together", counts=counts, lengths=True, **asked)
    found = Together(say=said.append).outcomes(admitted)
    assert said == []
    require_equal(found, expected, close=1e-4 if train.get("optimizer") == "adamw" else 1e-6)


def test_epochs_of_unlike_numbers_of_steps_end_where_each_ends(server, tmp_path):
    train = {"batch_size": 8, "steps": None, "local_epochs": 1, "optimizer": "adamw", "lr": 0.01}
    asked = {"privacy": {"epsilon": None}, "train": train}
    expected = list(OneByOne().train(works(server, tmp_path / "alone", **asked)))
    require_equal(train_and_tell(works(server, tmp_path / "together", **asked)), expected, close=1e-4)


def train_and_tell(admitted):
    return [trainer_module.told(work, ended) for work, ended in zip(admitted, train_group(admitted), strict=True)]


def test_a_frozen_factor_that_differs_is_each_client_s_own(server, tmp_path):
    asked = {"privacy": {"epsilon": None}, "trains": (Factor.B, Factor.DENSE)}

    def unlike(folder):
        return [moved(work, 0.1 * number) for number, work in enumerate(works(server, folder, **asked))]

    def moved(work, by):
        own = work.start.own
        own = own.with_tensors({name: tensor + by for name, tensor in own.tensors([Factor.A]).items()})
        return replace(work, start=replace(work.start, own=own))

    expected = list(OneByOne().train(unlike(tmp_path / "alone")))
    require_equal(train_and_tell(unlike(tmp_path / "together")), expected)


@BOTH
def test_answers_ledgers_and_updates_are_those_of_one_by_one(server, tmp_path, privacy):
    privacy = privacy or {"epsilon": None}
    sites = {how: [site(tmp_path / how / str(n), name=f"c{n}", count=40) for n in range(3)] for how in ("a", "t")}
    expected = [answer(*server.ask(1, privacy=privacy), here) for here in sites["a"]]
    found = answer_together([(*server.ask(1, privacy=privacy), here) for here in sites["t"]], Together())
    for (report, blob), (known, known_blob) in zip(found, expected, strict=True):
        assert (report.outcome, report.client, report.examples) == ("trained", known.client, known.examples)
        assert report.train_loss == pytest.approx(known.train_loss, rel=1e-5)
        assert len(blob) == len(known_blob)
    for one, other in zip(sites["t"], sites["a"], strict=True):
        assert entries(one) == entries(other)


def entries(here):
    own = {"kind", "rate", "noise_multiplier", "clip", "steps", "expected_batch", "task"}
    return [
        {name: value for name, value in {"kind": entry.kind, **entry.fields}.items() if name in own}
        for entry in inspect_ledger(LedgerFiles(here.folder, "default")).entries
    ]


def test_one_that_is_refused_and_one_that_diverges_cost_the_others_nothing(server, tmp_path):
    sites = [site(tmp_path / str(n), name=f"c{n}", count=40) for n in range(3)]
    task, state = server.ask(1, privacy={"epsilon": None})
    other = task.model_copy(update={"fingerprint": "another"})
    reports = [r for r, _ in answer_together([(task, state, sites[0]), (other, state, sites[1]),
                                              (task, state, sites[2])], Together())]  # fmt: skip
    assert [report.outcome for report in reports] == ["trained", "refused", "trained"]


def test_a_step_that_is_not_finite_is_each_client_s_own_to_skip(server, tmp_path):
    train = {"batch_size": 8, "steps": 4, "lr": 1e30}
    said: list[str] = []
    found = Together(say=said.append).outcomes(works(server, tmp_path, privacy={"epsilon": None}, train=train))
    assert "not finite" in said[0]
    assert [type(one).__name__ for one in found] == ["NotFiniteError"] * 3 or all(one.steps.skipped for one in found)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"train": {"batch_size": 8, "steps": 2, "optimizer": "torch.optim:RMSprop"}}, "every number by itself"),
        ({"train": {"batch_size": 8, "steps": 2, "optimizer_state": "keep"}}, "optimizer_state=keep"),
        pytest.param(
            {"privacy": {"epsilon": 3.0, "engine": "opacus"}}, "privacy.engine=opacus", marks=pytest.mark.slow
        ),
    ],
    ids=["plug-in", "keep", "opacus"],
)
def test_what_cannot_be_together_is_said_once_and_trained_all_the_same(server, tmp_path, changes, why):
    said: list[str] = []
    found = Together(say=said.append).outcomes(works(server, tmp_path, **{"privacy": {"epsilon": None}, **changes}))
    assert len(said) == 1
    assert said[0].startswith("clients are trained one by one: ")
    assert why in said[0]
    assert all(not isinstance(one, Exception) for one in found)


def dropping(folder):
    """A coordinator whose model drops out, in its layers and in its attention."""
    own = coordinator(folder)
    for module in own.home.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return own


@pytest.mark.parametrize("train", [{}, {"batch_size": 4, "optimizer": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
def test_every_client_drops_out_what_it_drops_out_alone(tmp_path_factory, tmp_path, train, monkeypatch):
    own = dropping(tmp_path_factory.mktemp("dropping"))
    asked = {"privacy": {"epsilon": None}, "train": {"batch_size": 8, "steps": 3, **train}}
    expected = list(OneByOne().train(works(own, tmp_path / "alone", lengths=True, **asked)))
    monkeypatch.setattr(trainer_module, "OneByOne", None)
    found = Together(say=pytest.fail).outcomes(works(own, tmp_path / "together", lengths=True, **asked))
    require_equal(found, expected, close=1e-4 if train else 1e-6)


def test_where_it_would_not_be_faster_each_is_trained_alone(server, tmp_path, monkeypatch):
    """By the lengths of texts, and no clock: twice the same run is twice the same."""
    monkeypatch.setattr("client.together.passes.FIXED", {"cpu": 1})
    said: list[str] = []
    Together(say=said.append).outcomes(works(server, tmp_path, privacy={"epsilon": None}))
    assert said == [
        "clients are trained one by one: with batches of 8 several in a pass are no faster than each alone."
    ]


def test_where_a_client_draws_for_each_microbatch_it_is_trained_alone(tmp_path_factory, tmp_path):
    own = dropping(tmp_path_factory.mktemp("pieces"))
    train = {"batch_size": 8, "steps": 1, "microbatch_size": 4}
    said: list[str] = []
    Together(say=said.append).outcomes(works(own, tmp_path, privacy={"epsilon": None}, train=train))
    assert "draws at random for each microbatch" in said[0]


class Mixing(nn.Module):
    """Adds the mean over a pass to every row."""

    def forward(self, hidden):
        return hidden + hidden.mean(0, keepdim=True)


def test_a_model_that_mixes_the_rows_of_a_pass_is_found_by_the_trial(tmp_path_factory, tmp_path):
    own = coordinator(tmp_path_factory.mktemp("mixing"))
    own.home.model.encoder.layer[0].output.LayerNorm = nn.Sequential(
        own.home.model.encoder.layer[0].output.LayerNorm, Mixing()
    )
    said: list[str] = []
    outcomes = Together(say=said.append).outcomes(works(own, tmp_path, privacy={"epsilon": None}))
    assert "mixes the rows of a pass" in said[0]
    assert all(not isinstance(one, Exception) for one in outcomes)


def test_after_its_first_private_step_nothing_is_tried_again(server, tmp_path, monkeypatch):
    def broken(self, totals, stream):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ClientsEngine, "_release", broken)
    monkeypatch.setattr(trainer_module, "OneByOne", None)
    found = Together().outcomes(works(server, tmp_path, counts=(40, 40), privacy=PRIVATE))
    assert [str(one) for one in found] == ["the device is gone"] * 2

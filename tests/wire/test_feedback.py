"""Error feedback: what is left out comes later; when it must be dropped; what `auto` measures and picks."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from client.state.feedback import Feedback, Occasion
from fedlora.config.wire import WireSettings
from fedlora.updates import Adapter, Factor, add, norm, subtract
from fedlora.wire.choice import choose, kurtosis, packing_of, sign_energy, top_energy
from fedlora.wire.message import Schema, decode, encode
from fedlora.wire.packing import Packing
from tests.wire.test_message import EXPECTED, HEADER, adapter

NOBODY = Adapter({})
MEANT = {"x": torch.linspace(0.1, 1.0, 50)}
RESIDUAL = {"x": torch.ones(4)}
ALL = 10**6  # every answer has been used


def at(number: int, *, base_version: int = 0, private: bool = False) -> Occasion:
    return Occasion(number, base_version, private)


def sent_in_round(folder, number: int) -> dict[str, torch.Tensor]:
    """What a site sends of a constant gradient at density 1/10."""
    feedback = Feedback(folder, "run")
    before = feedback.residual(Schema.of(MEANT), NOBODY, at(number), used_round=ALL)
    update = add(MEANT, before) if before else MEANT
    sent = decode(encode(update, HEADER, density=0.1), Schema.of(MEANT), EXPECTED).tensors
    feedback.keep(subtract(update, sent), NOBODY, at(number), before=before)
    return sent


def test_what_top_k_leaves_out_is_sent_in_time(tmp_path):
    """The sum of what is sent follows the sum of what was meant, smallest value too."""
    total = {"x": torch.zeros(50)}
    for number in range(1, 61):
        total = add(total, sent_in_round(tmp_path, number))
    wanted = {"x": 60 * MEANT["x"]}
    assert norm(subtract(total, wanted)) / norm(wanted) < 0.15
    assert torch.all(total["x"] > 0)


def test_a_repeated_round_starts_from_what_it_had_started_from(tmp_path):
    for number in (1, 2, 3):
        once = sent_in_round(tmp_path, number)
        assert torch.equal(sent_in_round(tmp_path, number)["x"], once["x"])


def test_an_answer_that_was_not_used_gives_back_what_it_carried_and_counts_as_missed(tmp_path):
    feedback, schema = Feedback(tmp_path, "run"), Schema.of(RESIDUAL)
    carried = {"x": torch.full((4,), 7.0)}
    feedback.keep(RESIDUAL, NOBODY, at(3), before=carried)
    assert torch.equal(feedback.residual(schema, NOBODY, at(4), used_round=3)["x"], RESIDUAL["x"])
    assert torch.equal(feedback.residual(schema, NOBODY, at(4), used_round=2)["x"], carried["x"])
    assert torch.equal(feedback.residual(schema, NOBODY, at(5), used_round=2, decay=0.5)["x"], carried["x"] / 4)
    feedback.keep(RESIDUAL, NOBODY, at(5), before={})
    assert feedback.residual(schema, NOBODY, at(6), used_round=0) == {}


def test_a_residual_fades_with_every_round_that_its_site_missed(tmp_path):
    feedback = Feedback(tmp_path, "run")
    feedback.keep(RESIDUAL, NOBODY, at(3), before={})
    schema = Schema.of(RESIDUAL)
    for number, left in ((4, 1.0), (5, 0.5), (7, 0.125)):
        assert torch.equal(
            feedback.residual(schema, NOBODY, at(number), decay=0.5, used_round=ALL)["x"], left * RESIDUAL["x"]
        )
    assert feedback.residual(schema, NOBODY, at(4), decay=0.0, used_round=ALL).keys() == {"x"}
    assert feedback.residual(schema, NOBODY, at(5), decay=0.0, used_round=ALL) == {}
    assert torch.equal(feedback.residual(schema, NOBODY, at(9), decay=1.0, used_round=ALL)["x"], RESIDUAL["x"])


@pytest.mark.parametrize("now", [at(5, base_version=2), at(5, base_version=1, private=True), at(3, base_version=1)])
def test_a_residual_is_dropped_when_base_or_privacy_changed_or_the_run_went_back(tmp_path, now):
    feedback = Feedback(tmp_path, "run")
    feedback.keep(RESIDUAL, NOBODY, at(4, base_version=1), before={"x": torch.zeros(4)})
    assert feedback.residual(Schema.of(RESIDUAL), NOBODY, at(5, base_version=1), used_round=ALL).keys() == {"x"}
    assert feedback.residual(Schema.of(RESIDUAL), NOBODY, now, used_round=ALL) == {}


def test_a_residual_is_dropped_when_schema_or_run_differ_or_the_file_is_torn(tmp_path):
    feedback = Feedback(tmp_path, "run")
    feedback.keep(RESIDUAL, NOBODY, at(1), before={})
    assert feedback.residual(Schema({"x": (5,)}), NOBODY, at(2), used_round=ALL) == {}
    assert Feedback(tmp_path, "other").residual(Schema.of(RESIDUAL), NOBODY, at(2), used_round=ALL) == {}
    path = next((tmp_path / "feedback").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-3])
    assert feedback.residual(Schema.of(RESIDUAL), NOBODY, at(2), used_round=ALL) == {}


def test_a_residual_follows_a_rotation_of_a(tmp_path):
    old = adapter()
    rotation, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(3)))
    new = old.with_tensors({f"{name}.A": rotation @ layer.A_rn for name, layer in old.layers.items()})
    residual = {f"{name}.B": torch.ones_like(layer.B_mr) for name, layer in old.layers.items()}
    feedback = Feedback(tmp_path, "run")
    feedback.keep(residual, old, at(1), before={})
    moved = feedback.residual(Schema.of(residual), new, at(2), used_round=ALL)
    for name, layer in new.layers.items():
        assert_close(moved[f"{name}.B"] @ layer.A_rn, residual[f"{name}.B"] @ old.layers[name].A_rn)


def drawn(power: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(20_000, generator=torch.Generator().manual_seed(0)) ** power}


def test_auto_takes_whichever_keeps_more_and_says_what_it_measured():
    auto = WireSettings(codec="auto")
    flat, heavy = choose(drawn(1), auto), choose(drawn(5), auto)
    assert (flat.codec, flat.density) == ("sign", 1.0)
    assert (heavy.codec, heavy.density) == ("int4", 1 / 16)
    assert flat.kurtosis == pytest.approx(3.0, abs=0.2)
    assert kurtosis(drawn(5)) == heavy.kurtosis > 100
    fixed = choose(drawn(5), WireSettings(codec="int8", density=0.5))
    assert (fixed.codec, fixed.density, fixed.kurtosis) == ("int8", 0.5, None)


def test_what_auto_measures_and_reports_by_hand():
    """Squares 12 + 8, fourth powers 84 + 32 of six values; signs keep 36 / 4 + 16 / 2, the largest of each 9 + 4."""
    update = {"x": torch.tensor([3.0, -1.0, 1.0, 1.0]), "y": torch.tensor([2.0, -2.0])}
    assert kurtosis(update) == pytest.approx((116 / 6) / (20 / 6) ** 2)
    assert sign_energy(update) == pytest.approx(17 / 20)
    assert [top_energy(update, density) for density in (1 / 16, 0.5)] == pytest.approx([13 / 20, 14 / 20])
    sent = {"x": torch.tensor([3.0, 0.0, 0.0, 0.0]), "y": torch.tensor([2.0, 0.0])}
    packing = packing_of(choose(update, WireSettings(codec="auto")), update, sent)
    assert packing == Packing(codec="sign", density=1.0, error=0.592, kurtosis=1.74, top_energy=0.65)


@pytest.mark.parametrize("power", [1, 3, 5])
def test_what_is_measured_is_what_packing_loses(power):
    """error² = 1 - energy kept, for signs with one scale a tensor, and for top-k without quantisation."""
    update = drawn(power)
    signs = {"x": update["x"].abs().mean() * torch.sign(update["x"])}
    assert 1 - norm(subtract(update, signs)) ** 2 / norm(update) ** 2 == pytest.approx(sign_energy(update), abs=1e-5)
    sent = decode(encode(update, HEADER, density=1 / 16), Schema.of(update), EXPECTED).tensors
    packing = packing_of(choose(update, WireSettings(density=1 / 16)), update, sent)
    assert packing.error**2 == pytest.approx(1 - top_energy(update, 1 / 16), rel=0.02, abs=1e-6)
    assert (packing.codec, packing.density) == ("fp32", 1 / 16)


def test_nothing_is_lost_of_an_update_of_zeros():
    zeros = {"x": torch.zeros(10)}
    choice = choose(zeros, WireSettings(codec="auto"))
    assert packing_of(choice, zeros, zeros).error == 0.0


def test_a_b_and_head_may_have_quotas_of_their_own():
    update = {
        name: torch.randn(shape) for name, shape in (("l.A", (4, 50)), ("l.B", (25, 4)), ("head/weight", (2, 50)))
    }
    settings = WireSettings(codec="fp32", density=0.5, densities={"A": 0.1, "head": 1.0})
    choice = choose(update, settings)
    sent = decode(encode(update, HEADER, density=choice.quotas), Schema.of(update), EXPECTED).tensors
    counts = {name: int(torch.count_nonzero(tensor)) for name, tensor in sent.items()}
    assert counts == {"l.A": 20, "l.B": 50, "head/weight": 100}
    assert choice.density == pytest.approx(170 / 400, abs=1e-3)
    assert settings.lossy
    assert not WireSettings(densities={"head": 1.0}).lossy


@pytest.mark.parametrize("name", ["A", "B", "R", "head"])
def test_a_quota_is_a_share(name):
    for share in (0.0, 1.01):
        with pytest.raises(ValueError, match=name):
            WireSettings(densities={name: share})
    assert WireSettings(densities={name: 1.0}).densities.given == {Factor(name): 1.0}


def test_auto_takes_no_quotas():
    with pytest.raises(
        ValueError, match=r"codec: auto chooses the density itself; set another codec, or remove wire\.densities"
    ):
        WireSettings(codec="auto", densities={"A": 0.5})

"""Canaries' directions, and what an engine makes of gradients that are put in."""

from __future__ import annotations

import pytest
import torch

from fedlora.privacy import engine
from fedlora.privacy.canaries import HELD_OUT, REST, Canaries, Layout, planting
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.gaussian_audit import Claim
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.released import Scores, watching
from fedlora.settings import SettingsError


class Words(torch.nn.Module):
    """Eight numbers a token: as much of an encoder as is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 8)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding


class Means(Words):
    """And a classifier on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(input_ids).mean(1))


def rows() -> torch.Tensor:
    """Six rows of three tokens, padded with 0 to four; the last four are canaries."""
    return torch.cat([torch.arange(1, 19).view(6, 3), torch.zeros(6, 1, dtype=torch.long)], 1)


def canaries(*norms: float) -> Canaries:
    return Canaries([tuple(row.tolist()) for row in rows()[2:, :3]], norms, pad_id=0, seed=3)


def model() -> Means:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Means()
    made.embedding.requires_grad_(False)
    return made


def test_directions_are_orthonormal_and_nothing_else_is_where_they_are():
    layout = Layout([100, 21], 7, seed=1)
    owners, directions = torch.cat(layout.owners), torch.cat(layout.directions)
    for canary in range(7):
        assert (directions[owners == canary]).norm() == pytest.approx(1.0)
    assert layout.each == 8
    assert (owners == HELD_OUT).sum() == 30
    assert (owners == REST).sum() == 121 - 56 - 30


def test_more_canaries_than_values_is_refused():
    with pytest.raises(SettingsError, match="9 canaries need two values each that train, and there are 17; use from 1"):
        Layout([17], 9, seed=0)


def scored(found: Canaries, tokens: torch.Tensor, mechanism: Mechanism) -> tuple[Scores, int]:
    """The scores of so many private steps on these rows, and how often a canary was planted."""
    made = model()

    def loss(index: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(made(tokens[index]), index % 5, reduction="none")

    with planting(found, source="fedlora") as planted:
        scores = Scores(planted, len(found))
        optimizer = torch.optim.SGD(made.head.parameters(), lr=1e-3)
        private = PrivateEngine(made, mechanism, examples=len(tokens), source=SeededSource(1))
        with watching(scores.see), private:
            for _ in range(mechanism.steps):
                private.step(loss)
                optimizer.step()
    return scores, planted.drawn


def claim(mechanism: Mechanism) -> Claim:
    return Claim(
        rate=mechanism.rate,
        noise_multiplier=mechanism.noise_multiplier,
        clip=mechanism.clip,
        batch=mechanism.expected_batch,
    )


def test_scores_are_what_is_left_of_a_canary_after_clipping():
    """Norms 1, 10 and 0.5 count 1, 1 and 0.625 C at C = 0.8; the fourth is not among the rows, and counts nothing."""
    mechanism = Mechanism(rate=1.0, noise_multiplier=1e-6, clip=0.8, steps=1, expected_batch=4.0)
    scores, drawn = scored(canaries(1.0, 10.0, 0.5, 1.0), rows()[:5], mechanism)
    seen = scores.against([claim(mechanism)], [True, True, True, False])
    assert seen.scores_tm[0].tolist() == pytest.approx([1.0, 1.0, 0.625, 0.0], abs=1e-4)
    assert drawn == 3
    squares, values = (sum(part[place] for part in seen.noise.values()) for place in (0, 1))
    assert values == scores.held_out
    assert 0 < squares / values < 10, "held-out values are of noise alone: any other holds some 10^10 of a gradient"


def test_where_nobody_is_there_is_noise_of_the_claimed_size_and_nothing_else():
    mechanism = Mechanism(rate=1.0, noise_multiplier=2.0, clip=1.0, steps=300, expected_batch=4.0)
    scores, _ = scored(canaries(1.0, 1.0, 1.0, 1.0), rows(), mechanism)
    seen = scores.against([claim(mechanism)] * 300, [True] * 4)
    squares, values = (sum(part[place] for part in seen.noise.values()) for place in (0, 1))
    assert values == 300 * scores.held_out
    assert squares / values == pytest.approx(1.0, abs=0.1)


def test_the_sources_are_as_before_afterwards():
    before = engine.BACKENDS
    with planting(canaries(1.0, 1.0, 1.0, 1.0), source="opacus"):
        assert engine.BACKENDS["fedlora"] is before["fedlora"]
        assert engine.BACKENDS["opacus"] is not before["opacus"]
    assert engine.BACKENDS is before

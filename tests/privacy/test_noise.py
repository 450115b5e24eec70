"""The noise and the sampler: distribution, independence, grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedlora.privacy.noise import SecureSource, SeededSource, Stream, grid, poisson_sample, privatise

KEY = bytes(range(32))


def test_the_stream_is_chacha20_and_continues_where_it_stopped():
    once = Stream(KEY).uniform(6)
    stream = Stream(KEY)
    assert np.array_equal(once, np.concatenate([stream.uniform(2), stream.uniform(4)]))
    assert once.min() >= 0
    assert once.max() < 1
    # RFC 8439, appendix A.1 style: the first word of the keystream, from the cipher itself.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    word = Cipher(ChaCha20(KEY, bytes(16)), mode=None).encryptor().update(bytes(8))
    assert once[0] == (int.from_bytes(word, "little") >> 11) / 2**53


def test_gaussian_is_standard_normal():
    values = Stream(KEY).gaussian(200_001)
    assert len(values) == 200_001
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert np.abs(values).max() < 8.6
    halves = values[:200_000].reshape(2, -1)
    assert abs(np.corrcoef(halves)[0, 1]) < 4 / math.sqrt(100_000)


def test_every_secure_stream_has_its_own_key_whatever_is_seeded():
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)  # global seeds change nothing
        draws.append(SecureSource().fresh().gaussian(1000))
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.15
    source = SecureSource()
    assert not np.array_equal(source.fresh().uniform(4), source.fresh().uniform(4))
    assert source.secure


def test_equal_seeds_at_two_clients_and_two_steps_give_independent_noise():
    ours, theirs = SeededSource(7, "run", "a"), SeededSource(7, "run", "b")
    first, second = ours.fresh().gaussian(10_000), ours.fresh().gaussian(10_000)
    other = theirs.fresh().gaussian(10_000)
    for left, right in ((first, second), (first, other)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 0.05
    assert np.array_equal(first, SeededSource(7, "run", "a").fresh().gaussian(10_000))
    assert not ours.secure


def test_poisson_sampling_draws_every_example_independently_at_the_rate():
    stream = Stream(KEY)
    counts = np.array([len(poisson_sample(stream, examples=1000, rate=0.03)) for _ in range(2000)])
    assert counts.mean() == pytest.approx(30, abs=4 * math.sqrt(29.1 / 2000))
    assert counts.var() == pytest.approx(1000 * 0.03 * 0.97, rel=0.15)
    assert torch.equal(poisson_sample(stream, examples=5, rate=1.0), torch.arange(5))
    assert len(poisson_sample(stream, examples=5, rate=1e-15)) == 0


@pytest.mark.parametrize("noise_std", [1e-4, 0.7, 1.0, 3e5])
def test_released_values_lie_on_a_grid_that_float32_holds(noise_std):
    step = grid(noise_std)
    assert 2.0**-20 <= step / noise_std < 2.0**-19
    released = privatise(torch.full((1000,), math.pi * noise_std), Stream(KEY), noise_std=noise_std)
    assert released.dtype is torch.float64
    assert torch.equal((released / step).round() * step, released)
    assert torch.equal(released.float().double(), released)


def test_privatise_adds_noise_of_the_given_size_to_the_total():
    total = torch.linspace(-5.0, 5.0, 1000).view(10, 100)
    released = privatise(total, Stream(KEY), noise_std=2.5)
    noise = torch.from_numpy(Stream(KEY).gaussian(1000)).view(10, 100)
    assert float((released - (total.double() + 2.5 * noise)).abs().max()) <= grid(2.5) / 2

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.model.dropout import Dropout, hash_bits


def seeds(n):
    return jax.random.bits(jax.random.key(0), (n, 2))


def test_the_hash_is_murmurs():
    """Two rounds of MurmurHash3's finaliser, written out again on Python's integers."""

    def mix(h):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ h >> shift) * factor % 2**32
        return h ^ h >> 16

    expected = [mix(mix((i * 0x9E3779B9 + 123) % 2**32) ^ 456) for i in range(6)]
    assert hash_bits(jnp.array([123, 456], jnp.uint32), (2, 3)).ravel().tolist() == expected
    assert mix(1) == 0x514E28B7  # published value of fmix32(1)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_kept_and_the_mean_too(rate):
    x = jnp.ones((64, 128, 128))
    for seed in range(3):
        y = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})
        dropped = float((y == 0).mean())
        assert abs(dropped - rate) < 5 * (rate * (1 - rate) / x.size) ** 0.5  # five standard errors
        np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_nothing_is_dropped_outside_training():
    x = jnp.arange(6.0)
    assert (Dropout(0.5).apply({}, x, train=False) == x).all()
    assert (Dropout(0.0).apply({}, x, train=True) == x).all()


def correlation(a, b):
    """Returns the correlation of two arrays of bits, in standard errors."""
    a, b = (np.asarray(part, np.float64).ravel() - np.mean(part) for part in (a, b))
    return abs(a @ b) / np.sqrt((a @ a) * (b @ b)) * np.sqrt(a.size)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 32, 64, 127, 128, 256, 1024, 16129])
def test_positions_are_independent(lag):
    kept = np.asarray(hash_bits(seeds(1)[0], (1 << 20,)) >= 2**32 // 10)
    assert correlation(kept[lag:], kept[:-lag]) < 4.5


def test_seeds_are_independent():
    """Layers and updates have different seeds. Even neighbouring seeds give unrelated masks."""
    near = jnp.array([[5, 9], [6, 9], [5, 10]], jnp.uint32)
    for two_seeds in (seeds(4), near):
        masks = [np.asarray(hash_bits(seed, (1 << 18,)) >= 2**32 // 10) for seed in two_seeds]
        for i, a in enumerate(masks):
            for b in masks[:i]:
                assert correlation(a, b) < 4.5


def test_all_bits_are_fair():
    """Chi-squared of each byte over 2^20 hashes: mean 255, standard deviation 22.6."""
    bits = np.asarray(hash_bits(seeds(1)[0], (1 << 20,)))
    for shift in (0, 8, 16, 24):
        counts = np.bincount(bits >> shift & 255, minlength=256)
        chi_squared = ((counts - 4096) ** 2 / 4096).sum()
        assert 255 - 5 * 22.6 < chi_squared < 255 + 5 * 22.6


def test_the_gradient_passes_where_nothing_is_dropped():
    def apply(x):
        return Dropout(0.5).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})

    x = jnp.ones(1000)
    np.testing.assert_array_equal(jax.grad(lambda x: apply(x).sum())(x), apply(x))

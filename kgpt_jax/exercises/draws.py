"""Draws keys and queries for the mathematical questions.

A draw is a pure function of a key. `simulate` runs many draws in float64. The words' keys have means mu_i
that are orthonormal. Words a and b are the first two.

Axes: `S` draws, `N` words, `D` channels.
"""

import math
import zlib
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.exercises import judge

CHUNK = 250  # draws at a time
FULL = 64  # up to so many channels whole keys are drawn, beyond only their products with mu_a and mu_b


def simulate(draw: Callable, draws: int, seed: int, purpose: str):
    """Returns what `draw(key)` returns for many keys, as float64 NumPy arrays with a leading axis S.

    Args:
      draw: one draw, a pure function of a JAX key.
      draws: how many.
      seed: decides the keys, together with `purpose`.
      purpose: a name; other names give independent draws.
    """
    with jax.enable_x64(True):
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) >> 1)
        keys_S = jax.random.split(key, draws)
        found = jax.jit(lambda keys_S: lax.map(draw, keys_S, batch_size=CHUNK))(keys_S)
        return jax.tree.map(np.asarray, found)


@cache
def frame(n: int, d: int, seed: int) -> np.ndarray:
    """Returns n orthonormal rows in d dimensions, (N, D), uniformly distributed. n is at most d."""
    frame_ND = np.ascontiguousarray(judge.frame(np.random.default_rng((seed, n, d)), n, d))
    frame_ND.setflags(write=False)  # callers share it
    return frame_ND


def channels(n: int) -> int:
    """Returns how many channels n words get: as many as there are words, but at least 64."""
    return max(n, FULL)


def noise(key: jax.Array, n: int, d: int) -> jax.Array:
    """Draws the noise of n keys, (N, D), or for d above `FULL` its products with mu_a and mu_b, (H, N)."""
    return jax.random.normal(key, (n, d) if d <= FULL else (2, n))


def products(noise: jax.Array, alpha: float, eps: jax.Array | float, frame_ND) -> jax.Array:
    """Returns the products of noisy keys k_i ~ N(mu_i, alpha I) with mu_a and mu_b, (H, N).

    Args:
      noise: standard normal, (N, D) for whole keys, or (H, N).
      alpha: the noise's variance in each direction.
      eps: mu_a is multiplied by this number.
      frame_ND: the means mu. None if `noise` is (H, N): the products have the same law, whatever the means.
    """
    if frame_ND is None:
        mean_HN = jnp.eye(*noise.shape).at[0, 0].set(eps)
        return mean_HN + math.sqrt(alpha) * noise
    factor_N = jnp.ones(len(noise)).at[0].set(eps)
    k_ND = factor_N[:, None] * frame_ND + math.sqrt(alpha) * noise
    return frame_ND[:2] @ k_ND.T


def means(n: int, d: int, seed: int) -> np.ndarray | None:
    """Returns the means of the keys, or None where only products are drawn."""
    return frame(n, d, seed) if d <= FULL else None

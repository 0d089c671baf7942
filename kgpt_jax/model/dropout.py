"""Dropout whose masks come from a hash of each element's index.

On a CPU, JAX's own random bits (threefry) take more time than a layer's matrix products; the hash takes
almost none. Tests check its rates, and that masks of positions, layers and updates are independent.

Axes: `2` two words of seed.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Dropout(nn.Module):
    """In training, sets each element to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    With `train=True` the caller must give a "dropout" key.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        bits = hash_bits(jax.random.bits(self.make_rng("dropout"), (2,)), x.shape)
        return jnp.where(bits >= jnp.uint32(self.rate * 2**32), x / (1 - self.rate), 0)


def hash_bits(seed_2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a uint32 array of this shape: for each element, a hash of its index and the seed."""
    number = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _mix(_mix(number * jnp.uint32(0x9E3779B9) + seed_2[0]) ^ seed_2[1])


def _mix(h: jax.Array) -> jax.Array:
    """Returns MurmurHash3's finaliser (Appleby 2011): each input bit flips each output bit half the time."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)

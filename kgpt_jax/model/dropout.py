"""Dropout whose masks come from a hash of each element's number.

JAX's own random bits (threefry) cost a CPU more than the matrix products of a layer; the hash costs next
to nothing. Its randomness is tested: rates, and independence of positions, layers and updates.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Dropout(nn.Module):
    """Drops each element with chance `rate` and scales the rest by 1 / (1 - rate), in training only.

    `train=True` needs a "dropout" key.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        bits = hash_bits(jax.random.bits(self.make_rng("dropout"), (2,)), x.shape)
        return jnp.where(bits >= jnp.uint32(self.rate * 2**32), x / (1 - self.rate), 0)


def hash_bits(seed_2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns uint32 bits, one hash for each element: of its number, mixed with two words of seed."""
    number = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _mix(_mix(number * jnp.uint32(0x9E3779B9) + seed_2[0]) ^ seed_2[1])


def _mix(h: jax.Array) -> jax.Array:
    """Returns MurmurHash3's finaliser (Appleby 2011): each bit in changes each bit out in half the cases."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)

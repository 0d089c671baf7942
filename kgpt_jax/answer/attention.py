"""Attention maps: the attention weights of each layer while a model reads a text.

Axes: `G` groups of positions that do not attend to each other, `H` heads, `T` query positions, `S` key
positions.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.variants import lookup


class Map(NamedTuple):
    """The attention weights of one layer.

    Attributes:
      layer: the layer's name among the parameters, such as "blocks_0/attn".
      weights_HTS: the weights, float32. The S weights of a query add up to 1.
      rows: the character of each query position, or the number of the latent.
      columns: the character of each key position, or the number of the latent.
    """

    layer: str
    weights_HTS: np.ndarray
    rows: list[str]
    columns: list[str]


def attention_maps(model: GPT, params, vocab: Vocab, text: str, source: int) -> list[Map]:
    """Returns the attention weights of every layer while the model reads a text.

    Args:
      model: the model.
      params: its parameters.
      vocab: its vocabulary.
      text: the text, at most `model.cfg.seq_len` characters.
      source: how many characters at the start are given rather than predicted. Only variants with
        `whole_source` use this number.

    Returns:
      The maps, from the first layer to the last.

    Raises:
      UserError: the variant has no weights by position, or the vocabulary lacks a character.
    """
    read, names = _reader(model.cfg)
    x_1T = jnp.asarray(vocab.encode(text))[None]
    found = read({"params": params}, x_1T, jnp.array([source]))
    latent = getattr(lookup(model.cfg).stack(model.cfg), "latent_axes", lambda layer: (False, False))
    maps = []
    for (*path, _, sown), weights_GHTS in zip(names, found):  # a path ends in `readout` and the weights' name
        if sown != "weights":
            raise UserError(f"variant {model.cfg.variant!r} has no weights by position to draw")
        layer, weights_HTS = "/".join(path), _side_by_side(np.asarray(weights_GHTS, np.float32))
        rows, columns = (
            [str(i) for i in range(size)] if is_latent else list(text)
            for size, is_latent in zip(weights_HTS.shape[1:], latent(layer))
        )
        maps.append(Map(layer, weights_HTS[:, : len(rows), : len(columns)], rows, columns))
    return maps


@cache
def _reader(cfg: ModelConfig) -> tuple[Callable, list[tuple[str, ...]]]:
    """Returns a compiled function that returns every layer's weights, and a list of the layers' paths.

    The list is empty until the function is first called. Weights and paths are in the order of the layers.
    """
    paths: list[tuple[str, ...]] = []

    # With a cache, variants that work on blocks of positions also compute weights for all positions.
    collections = ["intermediates", "cache"]

    @jax.jit
    def read(variables, x_1T: jax.Array, source_1: jax.Array) -> list[jax.Array]:
        _, state = GPT(cfg).apply(variables, x_1T, source_1, train=False, mutable=collections)
        sown = flatten_dict(state["intermediates"]["stack"])
        paths[:] = sown  # while JAX traces, the dict still has its order
        return [weights_GHTS for (weights_GHTS,) in sown.values()]

    return read, paths


def _side_by_side(weights_GHTS: np.ndarray) -> np.ndarray:
    """Returns the weights of all groups as one array (H, G T, G S), with zeros between groups."""
    G, H, T, S = weights_GHTS.shape
    whole_HTS = np.zeros((H, G * T, G * S), np.float32)
    for g, weights_HTS in enumerate(weights_GHTS):
        whole_HTS[:, g * T : (g + 1) * T, g * S : (g + 1) * S] = weights_HTS
    return whole_HTS

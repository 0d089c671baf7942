"""Attention maps: who looks at whom while a model reads a text.

Axes: `G` groups of positions that are worked on side by side, `H` heads, `T` query positions,
`S` key positions.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT, has_cache
from kgpt_jax.model.variants import lookup


class Map(NamedTuple):
    """The attention weights of one layer, (H, T, S); `rows` and `columns` name what asks and is looked at."""

    layer: str
    weights_HTS: np.ndarray
    rows: list[str]
    columns: list[str]


def attention_maps(model: GPT, params, vocab: Vocab, text: str, source: int) -> list[Map]:
    """Returns the maps of all layers while the model reads `text`, of which `source` characters are given.

    A UserError if the variant has no weights by position.
    """
    cfg = model.cfg
    # With a cache, variants that work on blocks of positions have their weights by position, too.
    collections = ["intermediates"] + ["cache"] * has_cache(cfg)
    x_1T, source_1 = jnp.asarray(vocab.encode(text))[None], jnp.array([source])
    read = jax.jit(partial(model.apply, train=False, mutable=collections))
    found = read({"params": params}, x_1T, source_1)[1]["intermediates"]["stack"]
    latent = getattr(lookup(cfg).stack(cfg), "latent_axes", lambda layer: (False, False))
    maps = []
    for path, weights in jax.tree_util.tree_leaves_with_path(found):
        if path[-2].key != "weights":
            raise UserError(f"variant {cfg.variant!r} has no weights by position to draw")
        layer = "/".join(key.key for key in path[:-3])  # without `readout`, `weights` and the call's number
        weights_HTS = _side_by_side(np.asarray(weights, np.float32))
        names = []
        for size, is_latent in zip(weights_HTS.shape[1:], latent(layer)):
            names.append([str(i) for i in range(size)] if is_latent else list(text))
        rows, columns = names
        maps.append(Map(layer, weights_HTS[:, : len(rows), : len(columns)], rows, columns))
    return sorted(maps, key=lambda found: found.layer)


def _side_by_side(weights_GHTS: np.ndarray) -> np.ndarray:
    """Returns the weights (H, G T, G S) of groups that see nothing of each other."""
    G, H, T, S = weights_GHTS.shape
    whole_HTS = np.zeros((H, G * T, G * S), np.float32)
    for g, weights_HTS in enumerate(weights_GHTS):
        whole_HTS[:, g * T : (g + 1) * T, g * S : (g + 1) * S] = weights_HTS
    return whole_HTS

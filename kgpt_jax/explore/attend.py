"""Pictures of attention: who looks at whom while a question is answered.

Axes: `G` groups of positions that are worked on side by side, `H` heads, `T` positions that ask, `S`
positions that are looked at.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.answer.evaluate import MAX_ANSWER, predict
from kgpt_jax.config import Config, UserError
from kgpt_jax.data.vocab import MASK, Vocab
from kgpt_jax.model.gpt import GPT, has_cache
from kgpt_jax.model.variants import lookup
from kgpt_jax.outputs import check, record
from kgpt_jax.train.checkpoint import first_model
from kgpt_jax.train.run import Run, fit_to

PANEL_INCHES = 3.2


def attend(config: Config, run: Run, question: str, path: Path):
    """Lets a run answer a question, and draws who looked at whom meanwhile."""
    config = fit_to(run, config)
    if unknown := run.vocab.unknown(question):
        raise UserError(f"--question has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if not 1 <= len(question) < config.model.seq_len - MAX_ANSWER:
        raise UserError(
            f"--question has {len(question)} characters: give 1 to {config.model.seq_len - MAX_ANSWER - 1}, "
            "so that an answer fits"
        )
    check(path, "attention")
    model, params = GPT(config.model), first_model(run, "reading with")
    [answer], _ = predict(model, params, run.vocab, [question])
    print(f"{question} {answer}")
    maps = attention_maps(model, params, run.vocab, f"{question}{MASK}{answer}", len(question) + 1)
    draw(maps, f"{config.model.variant}: {question} {answer}", path)
    record(path, "attention")
    print(f"wrote {path}")


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


def draw(maps: list[Map], title: str, path: Path):
    """Writes a picture with a row for each layer and a column for each head."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n_head = len(maps[0].weights_HTS)
    figure, panels = pyplot.subplots(
        len(maps),
        n_head,
        squeeze=False,
        figsize=(PANEL_INCHES * n_head, PANEL_INCHES * len(maps) + 0.5),
        layout="constrained",
    )
    for found, row in zip(maps, panels):
        for head, (panel, weights_TS) in enumerate(zip(row, found.weights_HTS)):
            panel.imshow(weights_TS, vmin=0, vmax=1, cmap="magma_r", aspect="auto")
            panel.set_title(f"{found.layer}, head {head}", fontsize=8)
            for set_ticks, names in ((panel.set_xticks, found.columns), (panel.set_yticks, found.rows)):
                points = min(8, 0.7 * 72 * PANEL_INCHES / len(names))
                set_ticks(range(len(names)), _visible(names), fontsize=points)
            panel.tick_params(length=0, pad=1)
    figure.suptitle(f"{title}\nrows ask, columns are looked at; dark is 1, light is 0")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:  # a folder, or an ending that is no picture's
        raise UserError(f"cannot write {path}: {error}; give another --outputs_path") from None
    finally:
        pyplot.close(figure)


def _visible(characters: list[str]) -> list[str]:
    return [character.replace(" ", "␣").replace("$", r"\$") for character in characters]

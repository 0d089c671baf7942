"""--mode=attend: answers a question and draws the attention weights.

    python -m kgpt_jax.main --mode=attend --question="Where was Ruth Kaplan born?"

draws every layer and head. --layer=2 --head=3 draws one head, with each character on the axes. Layers and
heads are numbered from 1.
"""

import math
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "outputs_path", "checkpoint", "question")
PICTURE = "attention"
INCHES, DPI = (16.0, 10.0), 100  # at most 1600 x 1000 pixels, which fits a screen
MARGIN = 1.2  # inches for titles, labels and the colour bar
SMALLEST = 7.0  # points of a label, and between two labels


def define_flags(values: flags.FlagValues):
    for name in ("layer", "head"):
        flags.DEFINE_integer(
            name, None, f"Draw only this {name}, counted from 1.", lower_bound=1, flag_values=values
        )


def run(command: Command):
    question, *others = command.needed("question")
    if others:
        raise UserError("give --question once: --mode=attend draws one question at a time")
    layer, head = command.flags.layer, command.flags.head
    start = command.start("finetune")
    path = Path(command.flags.outputs_path or start.folder / picture_name(layer, head))
    attend(command.config(start), start, question, path, layer, head)


def picture_name(layer: int | None, head: int | None) -> str:
    """Returns the default name of a picture.

    >>> picture_name(None, None), picture_name(2, 3)
    ('attention.png', 'attention_layer_2_head_3.png')
    """
    chosen = (("layer", layer), ("head", head))
    return "_".join(["attention", *(f"{name}_{number}" for name, number in chosen if number)]) + ".png"


def attend(config, run, question: str, path: Path, layer: int | None = None, head: int | None = None):
    """Asks a run a question, prints the answer, and draws the attention weights of reading both.

    Args:
      config: must fit the run.
      run: the run; its first model answers.
      question: short enough that question and answer fit into `seq_len`.
      path: the picture to write, in any format that Matplotlib knows.
      layer, head: the layer and the head to draw, from 1; None draws all.

    Raises:
      UserError: the question does not fit, is not one line of text or has a character that the vocabulary
        lacks, there is no such layer or head, the variant has no weights by position, or the picture cannot
        be written.
    """
    from kgpt_jax.answer.attention import attention_maps
    from kgpt_jax.answer.predict import MAX_ANSWER, predict, tidy
    from kgpt_jax.data.vocab import MASK
    from kgpt_jax.model.gpt import GPT
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.store.outputs import check
    from kgpt_jax.store.params import first_model

    config = fit_to(run, config)
    question = tidy(question)
    if unknown := run.vocab.unknown(question):
        raise UserError(f"--question has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if len(question) >= config.model.seq_len - MAX_ANSWER:
        raise UserError(
            f"--question has {len(question)} characters: give 1 to {config.model.seq_len - MAX_ANSWER - 1}, "
            "so that an answer fits"
        )
    _check_number("head", head, config.model.n_head)
    check(path, PICTURE)
    model, params = GPT(config.model), first_model(run, "reading with")
    [answer], _ = predict(model, params, run.vocab, [question])
    print(f"{question} {answer}")
    maps = attention_maps(model, params, run.vocab, f"{question}{MASK}{answer}", len(question) + 1)
    draw(maps, f"{config.model.variant}: {question} {answer}", path, layer, head)
    print(f"wrote {path}")


def draw(maps: list, title: str, path: Path, layer: int | None = None, head: int | None = None):
    """Writes a picture of attention maps, at most 1600 x 1000 pixels.

    With several layers and several heads, the grid of panels has one row per layer. Otherwise the panels fill
    the picture. A panel's axes show every character if there is room, and otherwise some of the words.

    Raises:
      UserError: there is no such layer or head, or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    from kgpt_jax.store.outputs import write_picture

    n_head = len(maps[0].weights_HTS)
    _check_number("layer", layer, len(maps))
    _check_number("head", head, n_head)
    layers, heads = [layer] if layer else range(1, len(maps) + 1), [head] if head else range(1, n_head + 1)
    rows, columns = _grid(len(layers), len(heads))
    size = _inches(rows, columns)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    room = Room((size[0] - MARGIN) / columns * 72, (size[1] - MARGIN) / rows * 72)
    drawn = [(maps[i - 1], i, h) for i in layers for h in heads]
    for number, panel in enumerate(panels.flat):
        if number >= len(drawn):
            panel.axis("off")
            continue
        found, i, h = drawn[number]
        image = panel.imshow(found.weights_HTS[h - 1], vmin=0, vmax=1, cmap="magma_r", aspect="auto")
        name = "" if found.layer == f"blocks_{i - 1}/attn" else f" ({found.layer})"
        panel.set_title(f"layer {i}{name}, head {h}", fontsize=9 if rows * columns <= 12 else 7)
        panel.tick_params(length=2, pad=1)
        below = number + columns < len(drawn) and drawn[number + columns][0]
        beside = number % columns and drawn[number - 1][0]
        _label(panel.set_xticks, found.columns, room.width, hidden=below and below.columns == found.columns)
        _label(panel.set_yticks, found.rows, room.height, hidden=beside and beside.rows == found.rows)
    figure.colorbar(image, ax=panels, label="attention weight", aspect=40, pad=0.01)
    figure.suptitle(title, parse_math=False)
    figure.supxlabel("keys: the characters that are attended to", fontsize=9)
    figure.supylabel("queries: the characters that attend", fontsize=9)
    with warnings.catch_warnings():  # Matplotlib warns about each character that the font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        write_picture(path, figure, PICTURE, DPI)


class Room(NamedTuple):
    """The size of a panel in points."""

    width: float
    height: float


def _check_number(name: str, number: int | None, most: int):
    if number is not None and not 1 <= number <= most:
        raise UserError(f"--{name}={number}: the model has {name}s 1 to {most}")


def _grid(n_layers: int, n_heads: int) -> tuple[int, int]:
    """Returns how many rows and columns of panels to draw.

    >>> _grid(4, 8), _grid(1, 8), _grid(4, 1)
    ((4, 8), (2, 4), (2, 2))
    """
    if n_layers > 1 and n_heads > 1:
        return n_layers, n_heads
    n = n_layers * n_heads
    grids = [(math.ceil(n / columns), columns) for columns in range(1, n + 1)]
    return max(grids, key=lambda grid: (_side(*grid), -grid[1]))


def _side(rows: int, columns: int) -> float:
    """Returns the inches of a square panel in a picture that fits the screen."""
    return min((INCHES[0] - MARGIN) / columns, (INCHES[1] - MARGIN) / rows)


def _inches(rows: int, columns: int) -> tuple[float, float]:
    """Returns the size of the whole picture."""
    side = _side(rows, columns)
    return min(side * columns + MARGIN, INCHES[0]), min(side * rows + MARGIN, INCHES[1])


def _label(set_ticks, characters: list[str], points: float, hidden: bool):
    """Labels an axis with all of its characters or, if they do not fit, with as many words as fit.

    Args:
      set_ticks: the panel's `set_xticks` or `set_yticks`.
      characters: the characters along the axis, or the numbers of latents.
      points: the length of the axis.
      hidden: draw ticks without labels, because the next panel has the same labels.
    """
    step, rotation = points / len(characters), 0  # points between two characters
    if step >= SMALLEST:
        labels = dict(enumerate(characters))
    else:
        labels, free = {}, 0.0
        for i, word in _words(characters).items():
            if i * step >= free:
                labels[i], free = word, i * step + SMALLEST
        rotation = 90 if set_ticks.__name__ == "set_xticks" else 0
    if hidden:
        set_ticks(list(labels), [])
        return
    shown = [label.replace(" ", "␣") for label in labels.values()]
    size = min(11, max(SMALLEST, 0.9 * step))
    set_ticks(list(labels), shown, fontsize=size, rotation=rotation, parse_math=False)


def _words(characters: list[str]) -> dict[int, str]:
    """Returns {index of its first character: word}, with long words shortened. Numbers of latents stay whole.

    >>> _words(list("Where was Alexander?⁇Rome"))
    {0: 'Where', 6: 'was', 10: 'Alexan…', 21: 'Rome'}
    """
    if any(len(name) > 1 for name in characters):
        return dict(enumerate(characters))
    words = re.finditer(r"[^ ⁇]+", "".join(characters))
    return {word.start(): word[0] if len(word[0]) <= 7 else word[0][:6] + "…" for word in words}

"""How well a run knows a name: tells people whom it has read of from people whom it has not.

    familiarity(run, cfg, params, ["Ada Bell"])

A model that has read of Ada Bell expects "Bell" after "Ada ". If nobody has the name, it does not, even if
both parts are frequent. The familiarity of a name is log p(last part | first part), plus the log probability
of the least likely letter in the first part, which a misspelled first name lowers. Finetuning hardly changes
what a model knows of names, so the finetuned run alone is asked.
"""

from collections.abc import Sequence

import numpy as np

from kgpt_jax.answer.predict import read_texts
from kgpt_jax.config import ModelConfig
from kgpt_jax.data.names import divided
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import models


def familiarity(run: Run, cfg: ModelConfig, params, names: Sequence[str]) -> np.ndarray:
    """Returns the familiarity of each name, in nats; the higher, the better the run knows it.

    It is -inf for a name with a letter that the run's vocabulary lacks, since no text that the run has read
    contains it. If a run has several models, it is the mean of theirs.

    Args:
      run: the run.
      cfg: the config of its model, as `fit_to` returns it.
      params: its parameters.
      names: the names, cut to the length of a text.
    """
    known = [bool(name) and not run.vocab.unknown(name) for name in names]
    texts = [run.vocab.encode(name if ok else "")[: cfg.seq_len + 1] for name, ok in zip(names, known)]
    sizes = [len(parts[0]) if (parts := divided(name)) else 1 for name in names]
    of_models = [
        [_of_characters(read.gain_T, size) for read, size in zip(of_one, sizes)]
        for one in models(run, params)
        for of_one in [read_texts(GPT(cfg), one, texts, [1] * len(texts))]
    ]
    return np.where(known, np.mean(of_models, axis=0), -np.inf)


def _of_characters(gain_T: np.ndarray, size: int) -> float:
    """Returns a familiarity, given the log probability of each character after the first of a name."""
    first, last = gain_T[: size - 1], gain_T[size - 1 :]
    return float(last.sum() + first.min(initial=0.0))

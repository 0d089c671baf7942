"""How well a run knows a name: tells people whom it has read of from people whom it has not.

    familiarity(run, cfg, params, ["Ada Bell"])

A model that has read of Ada Bell expects "Bell" after "Ada ". If nobody has the name, it does not, even if
both parts are frequent. The familiarity of a name is log p(last part | first part), plus the log probability
of the least likely letter in the first part, which a misspelled first name lowers. The finetuned run alone
is asked: the usual finetuning hardly changes what a model knows of names. A long one at a high rate does
(docs/accuracy.md, "A run as its own teacher").
"""

from collections.abc import Sequence

import numpy as np

from kgpt_jax.answer.predict import Read, read_texts
from kgpt_jax.config import ModelConfig
from kgpt_jax.data.names import divided
from kgpt_jax.data.vocab import Vocab
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
    texts = name_texts(run.vocab, names, cfg.seq_len + 1)
    reads = [read_texts(GPT(cfg), one, texts, [1] * len(texts)) for one in models(run, params)]
    return np.mean([of_reads(names, each) for each in reads], axis=0)


def name_texts(vocab: Vocab, names: Sequence[str], text_length: int) -> list[np.ndarray]:
    """Returns the ids of each name, for a model to read; none if a letter is not in the vocabulary."""
    return [vocab.encode("" if vocab.unknown(name) else name)[:text_length] for name in names]


def of_reads(names: Sequence[str], reads: Sequence[Read]) -> np.ndarray:
    """Returns the familiarity of each name, given how a model has read `name_texts`."""
    found = []
    for name, (gain_T, _) in zip(names, reads):
        size = len(parts[0]) if (parts := divided(name)) else 1
        first, last = gain_T[: size - 1], gain_T[size - 1 :]
        found.append(last.sum() + first.min(initial=0.0) if len(gain_T) else -np.inf)
    return np.array(found, float)

"""AdamW with the course's decay rule, and the learning rate of every update, counted in tokens.

The rate is not part of the optimiser: it is a plain array, made in float64 on the host, that the
training step is handed along with its batches. So it can be printed, tested and plotted as it is.
"""

import jax
import numpy as np
import optax

from kgpt_jax.config import TrainConfig

FLOOR = 0.1  # of the peak rate


def make_optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """Returns clipping and AdamW; the step multiplies its updates by minus the learning rate."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.scale_by_adam(cfg.beta1, cfg.beta2, eps=1e-8),
        optax.add_decayed_weights(cfg.weight_decay, mask=decayed),
    )


def decayed(params) -> dict:
    """Marks what decays: as in the course, all but biases, so norm gains and embeddings do."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", params)


def learning_rates(cfg: TrainConfig, n_examples: int, seq_len: int) -> np.ndarray:
    """Returns the float64 rate of each update of the run.

    Tokens are counted as minGPT does, padding included: `seq_len` for every example. The rate of an
    update is that of the tokens up to and with its own; with `first_step_at_peak`, as in the course,
    that of the tokens before it, but the peak for the first.
    """
    steps = -(-n_examples // cfg.batch_size)
    in_epoch = np.minimum(np.arange(1, steps + 1) * cfg.batch_size, n_examples) * seq_len
    epochs = np.arange(cfg.epochs)[:, None] * n_examples * seq_len
    tokens = (epochs + in_epoch).ravel()
    rates = cfg.learning_rate * rate_factor(tokens, cfg, final_tokens=cfg.final_tokens or tokens[-1])
    if cfg.first_step_at_peak:
        rates = np.concatenate([[cfg.learning_rate], rates[:-1]])
    return rates


def rate_factor(tokens: np.ndarray, cfg: TrainConfig, final_tokens: int) -> np.ndarray:
    """Returns the share of the peak rate after `tokens`: a linear rise, then minGPT's cosine.

    The cosine is not clipped: past `final_tokens` the rate rises again, as in the course of 2021.
    """
    rise = tokens / max(1, cfg.warmup_tokens)
    progress = (tokens - cfg.warmup_tokens) / max(1, final_tokens - cfg.warmup_tokens)
    fall = np.maximum(FLOOR, 0.5 * (1 + np.cos(np.pi * progress)))
    return np.where(tokens < cfg.warmup_tokens, rise, fall)

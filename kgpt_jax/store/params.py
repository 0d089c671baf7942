"""Loads a run's parameters from its checkpoint, to read the run or to start another one from it."""

import hashlib
import logging

import jax
import numpy as np

from kgpt_jax.devices import check_memory, to_numpy
from kgpt_jax.model.gpt import abstract_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import Run, saved_steps

log = logging.getLogger(__name__)


def load_params(run: Run, purpose: str = "", model_devices: int = 1):
    """Returns the parameters in the checkpoint that `run.checkpoint` names.

    Args:
      run: the run.
      purpose: the beginning of the log line that names the checkpoint, such as "starting from"; "" logs
        nothing.
      model_devices: the number of devices that shard each large parameter; with 1, all parameters are on the
        first device.

    Returns:
      A tree of float32 arrays, with a leading axis E if the run has several models (`n_seeds`).

    Raises:
      UserError: there is no valid checkpoint, it cannot be read, or it does not fit into memory.
    """
    with Checkpoints(run, read_only=True) as checkpoints:
        params, step = checkpoints.restore_params(shapes(run), model_devices), checkpoints.step
    if purpose:
        updates = run.facts.get("updates", step)
        of = f" of {updates:,}" if step < updates else ""
        unfinished = ": its training is not finished" if max(saved_steps(run.folder)) < updates else ""
        log.info(f"{purpose} {run.folder}, update {step:,}{of}{unfinished}")
    return params


def shapes(run: Run):
    """Returns the shapes and types of a run's parameters, with a leading axis if it has several models.

    Raises:
      UserError: the parameters do not fit into the memory.
    """
    like = abstract_params(run.config.model)
    if run.config.n_seeds > 1:
        several = (run.config.n_seeds,)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(several + leaf.shape, leaf.dtype), like)
    needed = 4 * sum(leaf.size for leaf in jax.tree.leaves(like))
    check_memory(f"reading {run.folder}", needed, "use a larger one")
    return like


def models(run: Run, params) -> list:
    """Returns a list with the parameters of each of the run's models, from what `load_params` returns."""
    if run.config.n_seeds == 1:
        return [params]
    return [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(run.config.n_seeds)]


def first_model(run: Run, purpose: str = ""):
    """Returns the parameters of the run's first model, read by `load_params`."""
    if run.config.n_seeds > 1:
        log.info(f"{run.folder} holds {run.config.n_seeds} models: the first is used")
    return models(run, load_params(run, purpose))[0]


def params_digest(params) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of the parameters' bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(to_numpy(leaf)).tobytes())
    return digest.hexdigest()[:16]

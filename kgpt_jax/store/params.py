"""A run's parameters out of its checkpoint, for whoever reads a run rather than trains it."""

import hashlib
import logging

import jax
import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.devices import memory, to_numpy
from kgpt_jax.model.gpt import abstract_params, count_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import Run

log = logging.getLogger(__name__)


def load_params(run: Run, purpose: str = "", model_devices: int = 1):
    """Returns the newest parameters of a run, and says which they are if there is a `purpose`.

    Those of several models have a leading axis. They lie on the first device, or on all, where several share
    each (see `restore_params`).
    """
    with Checkpoints(run, read_only=True) as checkpoints:
        params, step = checkpoints.restore_params(shapes(run), model_devices), checkpoints.step
    if purpose:
        updates = run.facts.get("updates", step)
        unfinished = f" of {updates:,}: its training is not finished" if step < updates else ""
        log.info(f"{purpose} {run.folder}, update {step:,}{unfinished}")
    return params


def shapes(run: Run):
    """Returns the shapes and types of a run's parameters; a UserError where they are beyond this machine."""
    needed, there = 4 * run.config.n_seeds * count_params(run.config.model), memory()
    if needed > there:
        raise UserError(
            f"{run.folder} has {needed / 1e9:,.1f} GB of parameters, and this machine {there / 1e9:,.1f} "
            "GB of memory: use a larger one"
        )
    like = abstract_params(run.config.model)
    if run.config.n_seeds > 1:
        several = (run.config.n_seeds,)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(several + leaf.shape, leaf.dtype), like)
    return like


def models(run: Run, params) -> list:
    """Returns the parameters of each of the run's models."""
    if run.config.n_seeds == 1:
        return [params]
    return [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(run.config.n_seeds)]


def first_model(run: Run, purpose: str = ""):
    """Returns the newest parameters of the run's first model."""
    if run.config.n_seeds > 1:
        log.info(f"{run.folder} holds {run.config.n_seeds} models: the first is used")
    return models(run, load_params(run, purpose))[0]


def params_digest(params) -> str:
    """Returns a short SHA-256 of the parameters' bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(to_numpy(leaf)).tobytes())
    return digest.hexdigest()[:16]

"""Orbax checkpoints of a run's whole state, and its parameters out of them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kgpt_jax.config import UserError, to_dict
from kgpt_jax.train.run import Run
from kgpt_jax.train.step import TrainState
from kgpt_jax.train.torch_params import abstract_params


class Checkpoints:
    """The checkpoints of one run: the newest two, written in the background, whole or not at all.

    A reader (`read_only`) leaves alone what a training that still runs is about to write.
    """

    def __init__(self, run: Run, read_only: bool = False):
        self.run = run
        self.folder = (run.folder / "checkpoints").absolute()  # Orbax fails late on relative paths
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(2), cleanup_tmp_directories=True
            )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.manager.close()

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, seconds: float):
        """Starts writing a checkpoint; training may go on and donate `state` meanwhile."""
        state = jax.tree.map(jnp.copy, state)
        trees = {"params": state.result, "opt_state": state.opt_state}
        if state.average:
            trees["raw_params"] = state.params
        self._save(int(state.step.max()), seconds, **trees)

    def save_params(self, params):
        """Starts writing parameters alone, as step 0: a run to start from, not to go on with."""
        self._save(0, 0.0, params=params)

    def _save(self, step: int, seconds: float, **trees):
        meta = {
            "config": to_dict(self.run.config),
            "vocab": self.run.vocab.characters,
            "seconds": seconds,
        }
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        self.manager.save(step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items))

    def wait(self):
        """Returns when what was saved is on the disk; raises what went wrong."""
        self.manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, float]:
        """Returns the newest state and the seconds of training behind it; `like` gives the shapes."""
        step = self.latest_step()
        trees = {"params": like.params, "opt_state": like.opt_state}
        if like.average:
            trees["raw_params"] = like.params
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in trees.items()}
        found = self._restore(step, meta=ocp.args.JsonRestore(), **items)
        state = TrainState(jnp.full_like(like.step, step), found.params, found.opt_state)
        if like.average:
            state = state._replace(params=found.raw_params, average=found.params)
        return state, found.meta["seconds"]

    def restore_params(self, like):
        """Returns the newest parameters alone, and their step; `like` gives the shapes."""
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self.run.folder} has no checkpoint yet: let its training run on")
        return self._restore(step, params=ocp.args.StandardRestore(_abstract(like))).params, step

    def _restore(self, step: int, **items):
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise every kind
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be read ({first_line}): "
                "delete it to go back to the one before"
            ) from None


def load_params(run: Run, purpose: str = ""):
    """Returns the newest parameters of a run, and says which they are if there is a `purpose`.

    Those of several models have a leading axis.
    """
    like = abstract_params(run.config.model)
    if run.config.n_seeds > 1:
        several = (run.config.n_seeds,)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(several + leaf.shape, leaf.dtype), like)
    with Checkpoints(run, read_only=True) as checkpoints:
        params, step = checkpoints.restore_params(like)
    if purpose:
        updates = run.facts.get("updates", step)
        unfinished = f" of {updates:,}: its training is not finished" if step < updates else ""
        print(f"{purpose} {run.folder}, update {step:,}{unfinished}")
    return params


def models(run: Run, params) -> list:
    """Returns the parameters of each of the run's models."""
    if run.config.n_seeds == 1:
        return [params]
    return [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(run.config.n_seeds)]


def first_model(run: Run, purpose: str = ""):
    """Returns the newest parameters of the run's first model."""
    if run.config.n_seeds > 1:
        print(f"{run.folder} holds {run.config.n_seeds} models: the first is used")
    return models(run, load_params(run, purpose))[0]


def params_digest(params) -> str:
    """Returns a short SHA-256 of the parameters' bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), tree)

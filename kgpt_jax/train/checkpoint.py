"""Orbax checkpoints of a run's whole state, and its parameters out of them."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from kgpt_jax.config import UserError, to_dict
from kgpt_jax.train.digests import SEAL, damage, seal
from kgpt_jax.train.run import NOT_OURS, Run, any_saved, saved_steps
from kgpt_jax.train.sharding import is_first, make_mesh, meet, shardings, to_numpy, told_by_first, whole
from kgpt_jax.train.step import TrainState
from kgpt_jax.train.torch_params import abstract_params

TEMPORARY = ".orbax-checkpoint-tmp"  # how Orbax ends the names of what it is writing
TENSORSTORES_ERROR = re.compile(r"os_error_code='(\d+)'")  # as it says it, among much else
SECONDS_TO_GIVE_UP = 10


class Kept(checkpoint_managers.PreservationPolicy):
    """Keeps the newest two checkpoints and the one of least loss.

    The losses are remembered here: Orbax's own policy forgets those of before the process began.
    """

    def __init__(self, losses: dict[int, float]):
        self.losses = losses  # by step, of those where it is finite

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        judged = [step for step in steps if step in self.losses]
        kept = {*sorted(steps)[-2:], *sorted(judged, key=self.losses.get)[:1]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run, each whole or not there: the newest two, and the one of least loss.

    A checkpoint counts once its digests are there and as long as they hold; one that does not is named and
    passed over. Training removes it; a reader (`read_only`) does not, since it may be what a training that
    still runs is about to write. One that training cannot even read stays and is a UserError: it may be
    sound. `step` is that of the newest that counts, None without one.
    """

    def __init__(self, run: Run, read_only: bool = False):
        self.run = run
        self.folder = (run.folder / "checkpoints").absolute()  # Orbax fails late on relative paths
        newest = self._newest_sound(read_only) if is_first() else None
        newest = told_by_first(-1 if newest is None else newest)
        self.step = None if newest < 0 else newest
        self.kept = Kept({} if read_only else dict(self._losses()))
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            # Not in the background: what is saved is saved when `save` returns, and a disk that is full says
            # so at once.
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self.kept, enable_async_checkpointing=False
            )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def _newest_sound(self, read_only: bool) -> int | None:
        """Returns the newest step that counts; removes what does not, unless it only reads."""
        newest = None
        for step in sorted(saved_steps(self.run.folder), reverse=True):
            path = self.folder / str(step)
            try:
                problem = damage(path)
            except OSError as error:
                if not read_only:
                    raise UserError(
                        f"checkpoint {path} cannot be read ({error.strerror}), and may be sound: mend "
                        "that, or move it away to go on from the one before"
                    ) from None
                problem = f"it cannot be read: {error.strerror}"
            if not problem and newest is None:
                newest = step
            if problem:
                print(f"note: checkpoint {path} is passed over: {problem}")
                if not read_only:
                    shutil.rmtree(path, ignore_errors=True)
            elif read_only:
                break
        if not read_only:
            self._remove_broken_off()
        return newest

    def _losses(self) -> Iterator[tuple[int, float]]:
        for step in saved_steps(self.run.folder):
            try:
                loss = json.loads((self.folder / str(step) / "meta" / "metadata").read_text("utf-8"))["loss"]
            except NOT_OURS:
                continue
            if isinstance(loss, float):
                yield step, loss

    def _remove_broken_off(self, seconds_gone: float = 0.0):
        """Removes what is half written, until it has been gone for a while: TensorStore may still write."""
        began = gone = time.monotonic()
        while True:
            for path in self.folder.glob(f"*{TEMPORARY}"):
                shutil.rmtree(path, ignore_errors=True)
                gone = time.monotonic()
            now = time.monotonic()
            if now - gone >= seconds_gone or now - began > SECONDS_TO_GIVE_UP:
                return
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.manager.close()

    def save(self, state: TrainState, seconds: float, loss: float):
        """Writes a checkpoint; `loss` is what it is judged by. A UserError where it cannot be written."""
        trees = {"params": state.result, "opt_state": state.opt_state}
        if state.average:
            trees["raw_params"] = state.params
        self._save(int(state.step.max()), seconds, loss, **trees)

    def save_params(self, params):
        """Writes parameters alone, as step 0: a run to start from, not to go on with."""
        self._save(0, 0.0, 0.0, params=params)

    def _save(self, step: int, seconds: float, loss: float, **trees):
        loss = told_by_first(loss)  # which alone keeps account
        if math.isfinite(loss):
            self.kept.losses[step] = loss
        meta = {
            "config": to_dict(self.run.config),
            "vocab": {"characters": self.run.vocab.characters},
            "facts": self.run.facts,
            "seconds": seconds,
            "loss": loss if math.isfinite(loss) else None,
        }
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        threads, hook = set(threading.enumerate()), sys.unraisablehook
        try:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
            if needed > shutil.disk_usage(self.run.folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sys.unraisablehook = lambda _: None  # TensorStore tells each of its callbacks of an error
            self.manager.save(
                step,
                args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items),
            )
            if is_first():
                seal(self.folder / str(step))
            meet("the checkpoint is sealed")
        except Exception as error:  # Orbax and TensorStore raise every kind
            if jax.process_count() > 1 and not _is_systems(error):
                raise  # another process is gone
            for thread in set(threading.enumerate()) - threads:
                threading.Thread.join(thread, SECONDS_TO_GIVE_UP)  # Orbax's, which may still write
            if is_first():  # what was half written would keep a full disk full
                self._remove_broken_off(seconds_gone=2.0)
                if not (self.folder / str(step) / SEAL).exists():
                    shutil.rmtree(self.folder / str(step), ignore_errors=True)
            last = "none yet" if self.step is None else self.folder / str(self.step)
            raise UserError(
                f"cannot save update {step} in {self.folder} ({_reason(error)}): the last good "
                f"checkpoint is {last}; make room and give the same command again"
            ) from None
        finally:
            sys.unraisablehook = hook
        self.step = step

    def restore(self, like: TrainState) -> tuple[TrainState, float]:
        """Returns the newest state and the seconds of training behind it; `like` gives the shapes."""
        trees = {"params": like.params, "opt_state": like.opt_state}
        if like.average:
            trees["raw_params"] = like.params
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in trees.items()}
        found = self._restore(meta=ocp.args.JsonRestore(), **items)
        state = TrainState(jnp.full_like(like.step, self.step), found.params, found.opt_state)
        if like.average:
            state = state._replace(params=found.raw_params, average=found.params)
        return state, found.meta["seconds"]

    def restore_params(self, like, model_devices: int = 1):
        """Returns the newest parameters alone; `like` gives the shapes.

        Where several `model_devices` share a parameter, none ever holds all of it (`train/sharding.py`).
        """
        if self.step is None:
            problem = "no sound checkpoint" if any_saved(self.run.folder) else "no checkpoint yet"
            raise UserError(f"{self.run.folder} has {problem}: give its training command again")
        places = shardings(like, make_mesh(None, model_devices)) if model_devices > 1 else None
        params = self._restore(params=ocp.args.StandardRestore(_abstract(like, places))).params
        if places is None and jax.process_count() > 1:  # from all devices to one's own
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)
        return params

    def _restore(self, **items):
        try:
            return self.manager.restore(self.step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise every kind
            raise UserError(
                f"checkpoint {self.folder / str(self.step)} cannot be read ({_reason(error)}): "
                "try again, or move it away to go back to the one before"
            ) from None


def _is_systems(error: Exception) -> bool:
    return isinstance(error, OSError) or TENSORSTORES_ERROR.search(str(error)) is not None


def _reason(error: Exception) -> str:
    if number := TENSORSTORES_ERROR.search(str(error)):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


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
        print(f"{purpose} {run.folder}, update {step:,}{unfinished}")
    return params


def shapes(run: Run):
    """Returns the shapes and types of a run's parameters; a UserError where they are beyond this machine."""
    like = abstract_params(run.config.model)
    if run.config.n_seeds > 1:
        several = (run.config.n_seeds,)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(several + leaf.shape, leaf.dtype), like)
    needed, there = sum(4 * leaf.size for leaf in jax.tree.leaves(like)), memory()
    if needed > there:
        raise UserError(
            f"{run.folder} has {needed / 1e9:,.1f} GB of parameters, and this machine {there / 1e9:,.1f} "
            "GB of memory: use a larger one"
        )
    return like


def memory() -> float:
    """Returns the bytes of this machine's memory, infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


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
        digest.update(np.ascontiguousarray(to_numpy(leaf)).tobytes())
    return digest.hexdigest()[:16]


def _abstract(tree, places=None):
    """Returns the tree's shapes, types and places: its arrays' own, else this process's first device."""
    if places is not None:
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if jax.process_count() > 1:
        device = whole(Mesh(np.array(jax.devices()), ("all",)))

    def abstract(leaf):
        place = leaf.sharding if isinstance(leaf, jax.Array) else device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(abstract, tree)

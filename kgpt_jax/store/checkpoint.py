"""Saves and restores a run's Orbax checkpoints: its whole training state, or its parameters alone.

with Checkpoints(run) as checkpoints:
    if checkpoints.step:
        state, seconds = checkpoints.restore(state)
    checkpoints.save(state, seconds, loss)
"""

import errno
import json
import logging
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from kgpt_jax.config import UserError, first_line, to_dict
from kgpt_jax.devices import barrier, broadcast, is_first, make_mesh, replicated, shardings
from kgpt_jax.store.digests import SEAL, damage, seal
from kgpt_jax.store.folder import JSON_ERRORS, Run, any_saved, saved_steps, unused_path

log = logging.getLogger(__name__)

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax ends the names of unfinished folders with this
TENSORSTORES_ERROR = re.compile(r"os_error_code='(\d+)'")  # where TensorStore's long messages give the errno
SECONDS_TO_GIVE_UP = 10


@contextmanager
def quiet():
    """Silences the log of Orbax, which goes through absl. Orbax also raises the errors that it logs."""
    logger = absl_logging.get_absl_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The checkpoints of one run, in `<run>/checkpoints/<update>`: the newest two, and the one of least loss.

    A checkpoint is valid if its digest file (`store/digests.py`) exists and matches. Invalid checkpoints are
    skipped, with a note in the log. Training moves them into the run's folder `set_aside`, because parts may
    still be useful. A reader leaves them in place, because a running training may be about to finish one.
    Only the files of our own interrupted saves are deleted.

    Args:
      run: the run; `run.checkpoint` names the checkpoint that a reader gets.
      read_only: True for a reader, False for training.

    Attributes:
      step: the update of the checkpoint in use, None if there is none: the newest valid checkpoint or, for a
        reader, the one that `run.checkpoint` asks for.

    Raises:
      UserError: in training, a checkpoint cannot be read, or there are checkpoints and none is valid:
        training never starts anew by itself. For a reader, the checkpoint that `run.checkpoint` names does
        not exist or is not valid.
    """

    def __init__(self, run: Run, read_only: bool = False):
        self.run = run
        self.folder = (run.folder / "checkpoints").absolute()  # with a relative path, Orbax fails late
        self.saving = run.folder / ".saving"  # names the update whose checkpoint is being written
        found = None
        if is_first():
            found = self._asked_for() if read_only else self._newest_valid()
        found = broadcast(-1 if found is None else found)
        self.step = None if found < 0 else found
        with quiet():
            self.manager = ocp.CheckpointManager(self.folder, options=_options(read_only))

    def _asked_for(self) -> int | None:
        """Returns the update that `run.checkpoint` names, or None if it says "newest" and there is none."""
        steps, which = sorted(saved_steps(self.run.folder), reverse=True), self.run.checkpoint
        if which == "best":
            losses = dict(self._losses())
            steps = sorted((step for step in steps if step in losses), key=losses.get)
        elif which != "newest":
            steps = [step for step in steps if step == int(which)]
        for step in steps:
            try:
                problem = damage(self.folder / str(step))
            except OSError as error:
                problem = f"it cannot be read: {error.strerror}"
            if not problem:
                return step
            log.info(f"note: checkpoint {self.folder / str(step)} is skipped: {problem}")
        if which != "newest":
            there = ", ".join(map(str, sorted(saved_steps(self.run.folder)))) or "none"
            raise UserError(f"{self.run.folder} has no valid checkpoint {which}: its checkpoints are {there}")
        return None

    def _newest_valid(self) -> int | None:
        """Returns the newest valid update. Moves invalid checkpoints aside, and removes unfinished ones."""
        self._remove_unfinished()
        problems = {}
        for step in saved_steps(self.run.folder):
            path = self.folder / str(step)
            try:
                problems[step] = damage(path)
            except OSError as error:
                raise UserError(
                    f"checkpoint {path} cannot be read ({error.strerror}), and may be valid: fix "
                    "that, or move it away to resume from the one before"
                ) from None
        valid = [step for step, problem in problems.items() if not problem]
        if problems and not valid:
            raise UserError(
                f"no checkpoint of {self.run.folder} is valid: {self.folder / str(max(problems))}: "
                f"{problems[max(problems)]}; bring its files back, or give --start_anew, which sets aside "
                "what is there and trains from the first update"
            )
        for step in problems.keys() - set(valid):
            path, aside = self.folder / str(step), unused_path(self.run.folder, f"checkpoint_{step}")
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            log.info(f"note: checkpoint {path} is skipped: {problems[step]}; it is now in {aside}")
        return max(valid, default=None)

    def _losses(self) -> Iterator[tuple[int, float]]:
        """Yields (update, loss) of each checkpoint that records a finite loss."""
        for step in saved_steps(self.run.folder):
            try:
                loss = json.loads((self.folder / str(step) / "meta" / "metadata").read_text("utf-8"))["loss"]
            except (OSError, *JSON_ERRORS):
                continue
            if isinstance(loss, float):
                yield step, loss

    def _remove_unfinished(self, seconds_gone: float = 0.0):
        """Removes unfinished checkpoints of our own.

        Args:
          seconds_gone: repeat until no new file has appeared for this many seconds. After a failed save,
            threads of TensorStore may still be writing.
        """
        step = self.saving.read_text() if self.saving.exists() else ""
        began = gone = time.monotonic()
        while True:
            unfinished = list(self.folder.glob(f"*{TEMPORARY}"))
            if step.isdecimal() and not (self.folder / step / SEAL).exists():
                unfinished += self.folder.glob(step)
            for path in unfinished:
                shutil.rmtree(path, ignore_errors=True)
                gone = time.monotonic()
            now = time.monotonic()
            if now - gone >= seconds_gone or now - began > SECONDS_TO_GIVE_UP:
                break
            time.sleep(0.05)
        self.saving.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with quiet():
            self.manager.close()

    def save(self, state, seconds: float, loss: float):
        """Writes a checkpoint of the whole training state, and deletes old checkpoints.

        Args:
          state: the `TrainState`.
          seconds: seconds of training so far.
          loss: the least loss decides which checkpoint is the best; NaN if it is unknown.

        Raises:
          UserError: the checkpoint cannot be written. Its unfinished files are removed.
        """
        self._save(int(state.step.max()), seconds, loss, params=state.params, opt_state=state.opt_state)

    def save_params(self, params):
        """Writes parameters alone, as update 0. Other runs can start from it, but none can resume it."""
        self._save(0, 0.0, 0.0, params=params)

    @quiet()  # all of it: a thread of Orbax may still log after `save` has raised
    def _save(self, step: int, seconds: float, loss: float, **trees):
        loss = broadcast(loss)  # only the first process knows it
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
            sys.unraisablehook = lambda _: None  # else each callback of TensorStore prints the error
            if is_first():
                self.saving.write_text(str(step))
            self.manager.save(
                step,
                args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items),
                metrics={"loss": loss if math.isfinite(loss) else math.inf},
            )
            if is_first():
                seal(self.folder / str(step))
                self.saving.unlink()
            barrier("the checkpoint is sealed")
        except Exception as error:  # Orbax and TensorStore raise every kind
            if jax.process_count() > 1 and not _is_systems(error):
                raise  # another process has ended
            for thread in set(threading.enumerate()) - threads:
                wait_for(thread)  # a thread of Orbax may still be writing
            if is_first():  # an unfinished checkpoint would keep a full disk full
                self._remove_unfinished(seconds_gone=2.0)
            last = "none yet" if self.step is None else self.folder / str(self.step)
            raise UserError(
                f"cannot save update {step} in {self.folder} ({_reason(error)}): the last good "
                f"checkpoint is {last}; make room and give the same command again, without --start_anew"
            ) from None
        finally:
            sys.unraisablehook = hook
        self.step = step

    def restore(self, like) -> tuple:
        """Returns the state of checkpoint `step`, and the seconds of training up to it.

        Args:
          like: a `TrainState` with the shapes, types and places of the state to restore.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        trees = {"params": like.params, "opt_state": like.opt_state}
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in trees.items()}
        found = self._restore(meta=ocp.args.JsonRestore(), **items)
        state = like._replace(
            step=jnp.full_like(like.step, self.step), params=found.params, opt_state=found.opt_state
        )
        return state, found.meta["seconds"]

    def restore_params(self, like, model_devices: int = 1):
        """Returns the parameters in checkpoint `step`, without the optimiser state.

        Args:
          like: the shapes and types of the parameters.
          model_devices: the number of devices that shard each large parameter (`devices.RULES`). No device
            ever holds a whole one. With 1, the parameters are on this process's first device.

        Raises:
          UserError: there is no valid checkpoint, or it cannot be read.
        """
        if self.step is None:
            if any_saved(self.run.folder):
                raise UserError(
                    f"{self.run.folder} has no valid checkpoint: bring its files back, or give its training "
                    "command again with --start_anew"
                )
            raise UserError(f"{self.run.folder} has no checkpoint yet: give its training command again")
        places = shardings(like, make_mesh(None, model_devices)) if model_devices > 1 else None
        params = self._restore(params=ocp.args.StandardRestore(_abstract(like, places))).params
        if places is None and jax.process_count() > 1:  # copy from all devices to this process's own
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)
        return params

    def _restore(self, **items):
        try:
            with quiet():
                return self.manager.restore(self.step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise every kind
            raise UserError(
                f"checkpoint {self.folder / str(self.step)} cannot be read ({_reason(error)}): "
                "try again, or move it away to go back to the one before"
            ) from None


def _options(read_only: bool) -> ocp.CheckpointManagerOptions:
    """Returns Orbax's options: keep the newest two checkpoints and the one of least loss."""
    if read_only:
        # It reads no metrics: those of a damaged checkpoint must not prevent reading a valid one.
        return ocp.CheckpointManagerOptions(read_only=True, lightweight_initialize=True)
    # Checkpoints of older versions have no metrics: BestN keeps them all.
    best = checkpoint_managers.BestN(get_metric_fn=_loss_of, reverse=True, n=1)
    return ocp.CheckpointManagerOptions(
        best_fn=_loss_of,  # only this makes Orbax read the losses of earlier processes' checkpoints
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(2), best]),
        enable_async_checkpointing=False,  # `save` returns, or reports a full disk, at the end
    )


def _loss_of(metrics: dict) -> float:
    return metrics["loss"]


def wait_for(thread: threading.Thread):
    """Waits until a thread has ended: at most SECONDS_TO_GIVE_UP for its start, and as long for its end."""
    deadline = time.monotonic() + SECONDS_TO_GIVE_UP
    while time.monotonic() < deadline:
        try:
            return threading.Thread.join(thread, SECONDS_TO_GIVE_UP)
        except RuntimeError:  # the thread is being started, and cannot be joined yet
            time.sleep(0.01)


def _is_systems(error: Exception) -> bool:
    """Returns whether an error comes from the operating system, such as a full disk."""
    return isinstance(error, OSError) or TENSORSTORES_ERROR.search(str(error)) is not None


def _reason(error: Exception) -> str:
    """Returns in a few words why Orbax failed."""
    if number := TENSORSTORES_ERROR.search(str(error)):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def _abstract(tree, places=None):
    """Returns the shapes, types and shardings of a tree's leaves, as Orbax needs them to restore it.

    The shardings are `places` or, if that is None, those of JAX arrays; leaves of other kinds go to this
    process's first device, or to all devices if there are several processes.
    """
    if places is not None:
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if jax.process_count() > 1:
        device = replicated(Mesh(np.array(jax.devices()), ("all",)))

    def abstract(leaf):
        place = leaf.sharding if isinstance(leaf, jax.Array) else device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(abstract, tree)

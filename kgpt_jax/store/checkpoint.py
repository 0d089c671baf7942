"""Orbax checkpoints of a run's whole state, and its parameters out of them."""

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
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from kgpt_jax.config import UserError, to_dict
from kgpt_jax.devices import barrier, broadcast, is_first, make_mesh, shardings, whole
from kgpt_jax.store.digests import SEAL, damage, seal
from kgpt_jax.store.folder import NOT_OURS, Run, any_saved, free_place, saved_steps

log = logging.getLogger(__name__)

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

    A checkpoint is valid if its digest file exists and matches; one that is not is named and passed over.
    Training moves it into the run's `set_aside`, since it may be sound; a reader (`read_only`) leaves it,
    since it may be what a training that still runs is about to write. Only what an interrupted save of ours
    left is removed. One that training cannot even read is a UserError, and so is a folder whose checkpoints
    are all invalid: training does not start anew by itself. `step` is that of the newest valid one, for a
    reader of the one that `run.checkpoint` asks for, and None without one.
    """

    def __init__(self, run: Run, read_only: bool = False):
        self.run = run
        self.folder = (run.folder / "checkpoints").absolute()  # Orbax fails late on relative paths
        self.saving = run.folder / ".saving"  # holds the number of the update that is being saved
        found = None
        if is_first():
            found = self._chosen() if read_only else self._newest_sound()
        found = broadcast(-1 if found is None else found)
        self.step = None if found < 0 else found
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

    def _chosen(self) -> int | None:
        """Returns the step that `run.checkpoint` asks for, None if it is the newest and there is none."""
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
            log.info(f"note: checkpoint {self.folder / str(step)} is passed over: {problem}")
        if which != "newest":
            there = ", ".join(map(str, sorted(saved_steps(self.run.folder)))) or "none"
            raise UserError(f"{self.run.folder} has no sound checkpoint {which}: its checkpoints are {there}")
        return None

    def _newest_sound(self) -> int | None:
        """Returns the newest valid step; moves what is invalid aside, and removes what is half written."""
        self._remove_broken_off()
        problems = {}
        for step in saved_steps(self.run.folder):
            path = self.folder / str(step)
            try:
                problems[step] = damage(path)
            except OSError as error:
                raise UserError(
                    f"checkpoint {path} cannot be read ({error.strerror}), and may be sound: mend "
                    "that, or move it away to go on from the one before"
                ) from None
        sound = [step for step, problem in problems.items() if not problem]
        if problems and not sound:
            raise UserError(
                f"no checkpoint of {self.run.folder} is sound: {self.folder / str(max(problems))}: "
                f"{problems[max(problems)]}; bring its files back, or give --start_anew, which sets aside "
                "what is there and trains from the first update"
            )
        for step in problems.keys() - set(sound):
            path, aside = self.folder / str(step), free_place(self.run.folder, f"checkpoint_{step}")
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            log.info(f"note: checkpoint {path} is passed over: {problems[step]}; it lies in {aside} now")
        return max(sound, default=None)

    def _losses(self) -> Iterator[tuple[int, float]]:
        for step in saved_steps(self.run.folder):
            try:
                loss = json.loads((self.folder / str(step) / "meta" / "metadata").read_text("utf-8"))["loss"]
            except (OSError, *NOT_OURS):
                continue
            if isinstance(loss, float):
                yield step, loss

    def _remove_broken_off(self, seconds_gone: float = 0.0):
        """Removes what is half written, until it has been gone for a while: TensorStore may still write."""
        step = self.saving.read_text() if self.saving.exists() else ""  # of our own save, broken off
        began = gone = time.monotonic()
        while True:
            broken = list(self.folder.glob(f"*{TEMPORARY}"))
            if step.isdecimal() and not (self.folder / step / SEAL).exists():
                broken += self.folder.glob(step)
            for path in broken:
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
        self.manager.close()

    def save(self, state, seconds: float, loss: float):
        """Writes a checkpoint; `loss` is what it is judged by. A UserError where it cannot be written."""
        trees = {"params": state.result, "opt_state": state.opt_state}
        if state.average:
            trees["raw_params"] = state.params
        self._save(int(state.step.max()), seconds, loss, **trees)

    def save_params(self, params):
        """Writes parameters alone, as step 0: a run to start from, not to go on with."""
        self._save(0, 0.0, 0.0, params=params)

    def _save(self, step: int, seconds: float, loss: float, **trees):
        loss = broadcast(loss)  # which alone keeps account
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
            if is_first():
                self.saving.write_text(str(step))
            self.manager.save(
                step,
                args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items),
            )
            if is_first():
                seal(self.folder / str(step))
                self.saving.unlink()
            barrier("the checkpoint is sealed")
        except Exception as error:  # Orbax and TensorStore raise every kind
            if jax.process_count() > 1 and not _is_systems(error):
                raise  # another process is gone
            for thread in set(threading.enumerate()) - threads:
                wait_for(thread)  # Orbax's, which may still write
            if is_first():  # what was half written would keep a full disk full
                self._remove_broken_off(seconds_gone=2.0)
            last = "none yet" if self.step is None else self.folder / str(self.step)
            raise UserError(
                f"cannot save update {step} in {self.folder} ({_reason(error)}): the last good "
                f"checkpoint is {last}; make room and give the same command again"
            ) from None
        finally:
            sys.unraisablehook = hook
        self.step = step

    def restore(self, like) -> tuple:
        """Returns the newest state and the seconds of training behind it; `like` gives the shapes."""
        trees = {"params": like.params, "opt_state": like.opt_state}
        if like.average:
            trees["raw_params"] = like.params
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in trees.items()}
        found = self._restore(meta=ocp.args.JsonRestore(), **items)
        state = like._replace(
            step=jnp.full_like(like.step, self.step), params=found.params, opt_state=found.opt_state
        )
        if like.average:
            state = state._replace(params=found.raw_params, average=found.params)
        return state, found.meta["seconds"]

    def restore_params(self, like, model_devices: int = 1):
        """Returns the newest parameters alone; `like` gives the shapes.

        Where several `model_devices` share a parameter, none ever holds all of it (`train/sharding.py`).
        """
        if self.step is None:
            if any_saved(self.run.folder):
                raise UserError(
                    f"{self.run.folder} has no sound checkpoint: bring its files back, or give its training "
                    "command again with --start_anew"
                )
            raise UserError(f"{self.run.folder} has no checkpoint yet: give its training command again")
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


def wait_for(thread: threading.Thread):
    """Waits until a thread has ended, at most SECONDS_TO_GIVE_UP once it runs."""
    deadline = time.monotonic() + SECONDS_TO_GIVE_UP
    while time.monotonic() < deadline:
        try:
            return threading.Thread.join(thread, SECONDS_TO_GIVE_UP)
        except RuntimeError:  # it is being started, and cannot be joined yet
            time.sleep(0.01)


def _is_systems(error: Exception) -> bool:
    return isinstance(error, OSError) or TENSORSTORES_ERROR.search(str(error)) is not None


def _reason(error: Exception) -> str:
    if number := TENSORSTORES_ERROR.search(str(error)):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


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

"""A run's folder: `config.json`, `vocab.json`, `run.json`, and Orbax checkpoints of the whole state.

Everything that a later stage needs is in the folder it starts from. `run.json` holds the stage, where it
started, and digests of its data and first parameters, so that a run is only ever resumed as itself.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kgpt_jax.config import Config, UserError, from_dict, leaves, to_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is; `folder` is where it lives."""

    folder: Path
    config: Config
    vocab: Vocab
    facts: dict  # stage, corpus digest, where it started, most frequent answer


def open_run(folder: Path, config: Config, vocab: Vocab, facts: dict) -> Run:
    """Returns the run in `folder`, made now or, if it has a checkpoint, checked to be the same run.

    Raises a UserError that names both values where config, vocabulary or data differ.
    """
    run = Run(folder, config, vocab, facts)
    if (folder / "config.json").exists() and any((folder / "checkpoints").glob("[0-9]*")):
        _check_same(run, read_run(folder))
        return run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", facts)
        write_json(folder / "vocab.json", {"characters": vocab.characters})
        write_json(folder / "config.json", to_dict(config))  # last: it says that all are there
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    return run


def read_run(folder: Path) -> Run:
    """Returns the run that a folder holds, or raises a UserError that says what is missing."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: --mode=import makes a run of a course .params file")
    try:
        config = from_dict(json.loads((folder / "config.json").read_text("utf-8")))
        vocab = Vocab(json.loads((folder / "vocab.json").read_text("utf-8"))["characters"])
        facts = json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a run's folder: it has no {Path(error.filename).name}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    return Run(folder, config, vocab, facts)


def _check_same(new: Run, old: Run):
    stage = old.facts["stage"]
    relevant = ("seed", "n_seeds", "model.", f"{stage}.")
    there, asked = leaves(old.config), leaves(new.config)
    for name in there:
        if name.startswith(relevant) and not name.endswith(".save_every") and there[name] != asked[name]:
            _refuse(new.folder, name, there[name], asked[name])
    if old.vocab != new.vocab:
        _refuse(new.folder, "the vocabulary", old.vocab.characters, new.vocab.characters)
    for name in ("stage", "data_digest", "start_digest"):
        if old.facts.get(name) != new.facts.get(name):
            _refuse(new.folder, name, old.facts.get(name), new.facts.get(name))


def _refuse(folder: Path, name: str, there, asked):
    raise UserError(
        f"{folder} holds a run with {name} {there!r}, and {asked!r} is asked for: "
        "give the same, another --workdir, or delete the folder"
    )


def write_json(path: Path, tree):
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)


def params_digest(params) -> str:
    """Returns a short SHA-256 of the parameters' bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


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


def _abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), tree)

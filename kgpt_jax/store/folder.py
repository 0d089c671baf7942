"""A run's folder: its manifest (`config.json`, `vocab.json`, `run.json`), its lock, and its file names.

    run = read_run("runs/vanilla/finetune")
    with locked(folder):
        ...  # no other process trains in it

A folder holds everything that a later stage needs. `run.json` records the stage, the run it started from, and
digests of its data and initial parameters. They prevent resuming it with other data by mistake.
"""

import dataclasses
import json
import logging
import os
import re
import socket
import time
from contextlib import contextmanager
from pathlib import Path

from kgpt_jax.config import DATA_PATHS, Config, UserError, from_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.environment import SUPERVISED
from kgpt_jax.store.atomic import replacing
from kgpt_jax.store.digests import damage

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

log = logging.getLogger(__name__)


STAGES = ("pretrain", "finetune", "scratch", "import")
FACT_TYPES = {
    "stage": str,
    "updates": int,
    "learned": str,  # fingerprints of questions (data/holdout.py)
    "corpus_digest": str,
    "made_on": dict,
    "most_frequent_answer": str,
    "shards": int,
    "taught_by": list,
}
# Fields of older versions that were renamed, and fields that were removed.
RENAMED = {
    "pieces": "microbatches",
    "stripes": "shards",
    "steps_per_dispatch": "microbatches_per_dispatch",
}
REMOVED = ("ema_decay",)
# Fields of the model in older versions that are options of variants now: (default, variants).
FORMER_FIELDS = {
    "bottleneck_dim": (64, ("perceiver", "perceiver_ar")),
    "attention_block": (16, ("bigbird", "linformer")),
    "linformer_dim": (16, ("linformer",)),
}
# Errors that reading damaged or unknown JSON may raise.
JSON_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its folder, and the manifest in it."""

    folder: Path
    config: Config
    vocab: Vocab
    facts: dict  # run.json: FACT_TYPES, digests, and the run it started from
    checkpoint: str = "newest"  # which checkpoint a reader gets: "newest", "best" or an update's number


def read_run(folder: str | Path, checkpoint: str = "newest") -> Run:
    """Returns the run that a folder holds.

    If the manifest is damaged, the copy of it in the newest valid checkpoint is used, with a note in the log.

    Args:
      folder: the run's folder.
      checkpoint: the checkpoint to read: "newest", "best" (the least loss) or an update's number.

    Raises:
      UserError: the folder holds no run, or one that is damaged or that this version cannot read.
    """
    folder = Path(folder)
    if checkpoint not in ("newest", "best") and not checkpoint.isdecimal():
        raise UserError(f"checkpoint {checkpoint!r}: give newest, best or an update's number")
    try:
        trees = _read_manifest(folder)
        _refuse_averaged(folder, trees[0])
        config, vocab, facts = map(with_current_names, trees)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror}") from None
    except JSON_ERRORS as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    try:
        for name, kind in FACT_TYPES.items():
            if not isinstance(facts.get(name, kind()), kind):
                raise ValueError(f"run.json has {name} {facts[name]!r}")
        if facts["stage"] not in STAGES:
            raise ValueError(f"run.json has stage {facts['stage']!r}")
        read = from_dict(config)
        data = {name: _found(getattr(read.data, name), folder) for name in DATA_PATHS}
        read = dataclasses.replace(read, data=dataclasses.replace(read.data, **data))
        return Run(folder, read, Vocab(vocab["characters"]), facts, checkpoint)
    except JSON_ERRORS as error:
        raise UserError(f"{folder} is damaged: {error}") from None


def _found(path: str, folder: Path) -> str:
    """Returns where a file of a run's data is now.

    If a file that `data/given.py` wrote is no longer at `path`, it may have been moved with the run: it is
    then in the run's folder, or in that of the pretraining beside it. Its name has a digest of the content.
    """
    if re.search(r"_[0-9a-f]{16}\.(txt|tsv)$", path) and not os.path.exists(path):
        for place in (folder, folder.absolute().parent / "pretrain"):
            if os.path.exists(place / Path(path).name):
                return str(place / Path(path).name)
    return path


def _refuse_averaged(folder: Path, config: dict):
    """Raises a UserError if an older version averaged a run's parameters, which this version does not do."""
    for stage in ("pretrain", "finetune", "scratch"):
        if decay := config.get(stage, {}).get("ema_decay"):
            raise UserError(
                f"{folder} has {stage}.ema_decay {decay}, and this version does not average parameters: use "
                "the version that trained it, or train another run"
            )


def with_current_names(tree):
    """Translates the field names of older versions in a run's JSON.

    Args:
      tree: the content of a JSON file in a run's folder, or any part of it.

    Returns:
      The same content, with the field names of this version.
    """
    if not isinstance(tree, dict):
        return tree
    kept = {name: value for name, value in tree.items() if name not in REMOVED}
    today = {RENAMED.get(name, name): with_current_names(value) for name, value in kept.items()}
    if "variant" in today and FORMER_FIELDS.keys() & today.keys():
        then = {name: today.pop(name) for name in FORMER_FIELDS if name in today}
        today["options"] = ",".join(
            f"{name}={value}"
            for name, value in then.items()
            if value != FORMER_FIELDS[name][0] and today["variant"] in FORMER_FIELDS[name][1]
        )
    return today


def _read_manifest(folder: Path) -> list:
    """Returns config, vocabulary and facts as JSON: the manifest or, if it is damaged, a copy of it."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: --mode=import makes a run of a course .params file")
    if not holds_run(folder):
        raise UserError(f"{folder} is not a run's folder: it has no config.json")
    problem = damage(folder)
    if not problem:
        return [
            json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("config", "vocab", "run")
        ]
    remembered = _manifest_in_checkpoint(folder)
    if remembered is None:
        raise UserError(f"{folder} is damaged: {problem}; bring the file back, or train again")
    log.info(f"note: {folder} is damaged, {problem}: the copy in its checkpoint is used")
    return remembered


def _manifest_in_checkpoint(folder: Path) -> list | None:
    """Returns the copy of the manifest in the newest valid checkpoint, None if there is none."""
    for step in sorted(saved_steps(folder), reverse=True):
        checkpoint = folder / "checkpoints" / str(step)
        if not damage(checkpoint):
            meta = json.loads((checkpoint / "meta" / "metadata").read_text("utf-8"))
            return [meta[name] for name in ("config", "vocab", "facts")]
    return None


def saved_steps(folder: Path) -> list[int]:
    """Returns the update of each checkpoint of a run, valid or not, in any order.

    Raises:
      UserError: the folder of the checkpoints cannot be listed, so it may have some.
    """
    checkpoints = folder / "checkpoints"
    try:
        with os.scandir(checkpoints) as found:  # `Path.glob` would pass over errors
            return [int(entry.name) for entry in found if entry.name.isdecimal() and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot list {checkpoints}, which may have checkpoints: {error.strerror}") from None


def any_saved(folder: Path) -> bool:
    """Returns whether a run has a checkpoint, valid or not. An imported run has one of update 0."""
    return bool(saved_steps(folder))


def holds_run(folder: Path) -> bool:
    """Returns whether a folder holds a run, or at least checkpoints of one."""
    return (folder / "config.json").exists() or any_saved(folder)


# Files of a training. A folder that has some of them but no run.json is somebody else's.
WRITTEN = ("config.json", "vocab.json", "SHA256SUMS", "metrics.jsonl", "loss.png", "checkpoints")
ANSWERS_OF_TEACHERS = VOTE, RECITED, READER = ("vote.json", "recited.json", "reader.json")
ASIDE = "set_aside"  # the folder in a run's folder for files that the run no longer uses


def _check_ours(folder: Path):
    """Raises a UserError if a training in `folder` would replace files that this program did not write."""
    if any_saved(folder):
        return
    try:
        ours = json.loads((folder / "run.json").read_text("utf-8"))["stage"] in STAGES
    except (FileNotFoundError, NotADirectoryError):
        ours = False
    except OSError as error:
        raise UserError(f"cannot read {folder / 'run.json'}: {error.strerror}; give another folder") from None
    except JSON_ERRORS:
        raise UserError(
            f"{folder / 'run.json'} is no run's, or damaged: give another folder, or move it away"
        ) from None
    there = [name for name in WRITTEN if (folder / name).exists()]
    if there and not ours:
        raise UserError(
            f"{folder / there[0]} exists and no run wrote it: a run of that folder would replace it; give "
            "another --writing_params_path or --workdir"
        )


def set_aside(folder: Path):
    """Moves a run's files into a new folder below its `set_aside`, with a note in the log.

    The caller holds the lock. Files that training did not write, such as predictions and `calibration.json`,
    stay in place. If a launcher restarts its processes, the run that this launch began stays, too.
    """
    from kgpt_jax.devices import barrier, is_first  # here, so that reading a run does not import JAX

    names = (*WRITTEN, *ANSWERS_OF_TEACHERS, "run.json", "tensorboard", ".saving")
    there = [folder / name for name in names if (folder / name).exists()]
    launch, begun_by = os.environ.get(SUPERVISED, ""), folder / ".started_anew"
    again = launch and begun_by.exists() and begun_by.read_text("utf-8") == launch
    if is_first() and not again:
        if there:
            into = unused_path(folder, "run")
            into.mkdir(parents=True)
            for path in there:
                path.rename(into / path.name)
            log.info(f"note: the run's files in {folder} are now in {into}")
        if launch:
            begun_by.write_text(launch, "utf-8")
    barrier("the folder is free")


def unused_path(folder: Path, name: str) -> Path:
    """Returns a path below a run's `set_aside` that does not exist yet: `<name>_1`, `<name>_2`, ..."""
    number = 1
    while (place := folder / ASIDE / f"{name}_{number}").exists():
        number += 1
    return place


@contextmanager
def locked(folder: Path):
    """Locks a run's folder while the context is open, so that only one training works in it.

    Creates the folder if it does not exist. The first process of a training holds the lock (flock). The
    operating system releases it when the process ends, even if it is killed.

    Raises:
      UserError: another process holds the lock (the message names it), the folder cannot be created, or
        training would replace a file that this program did not write.
    """
    from kgpt_jax.devices import is_first

    if not is_first():
        yield
        return
    _check_ours(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{folder} is in use, by {file.read().strip() or 'another process'}: wait for it to end, "
                "stop it, or give another --workdir"
            ) from None
        except OSError as error:  # a file system without locks
            log.info(f"note: {folder} cannot be locked ({error.strerror}): start one training in it only")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n")
        file.flush()
        yield


def write_json(path: Path, tree):
    """Writes a JSON file. If that raises an OSError, the old file stays as it was."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")

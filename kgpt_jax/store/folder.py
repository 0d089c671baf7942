"""A run's folder: `config.json`, `vocab.json`, and `run.json`; beside them lie its checkpoints.

Everything that a later stage needs is in the folder it starts from. `run.json` holds the stage, where it
started, and digests of its data and first parameters, so that a run is only ever resumed as itself.
"""

import dataclasses
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kgpt_jax.config import Config, UserError, from_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.store.digests import damage

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

log = logging.getLogger(__name__)


STAGES = ("pretrain", "finetune", "scratch", "import")
FACTS = {
    "stage": str,
    "updates": int,
    "learned": str,  # fingerprints of questions (data/holdout.py)
    "corpus_digest": str,
    "made_on": dict,
    "most_frequent_answer": str,
    "shards": int,
    "taught_by": list,
}
RENAMED = {"pieces": "microbatches", "stripes": "shards"}  # fields that older versions named otherwise
# Fields of the model that are options of some variants now: the default then, and the variants that read them.
FIELDS_THEN = {
    "bottleneck_dim": (64, ("perceiver", "perceiver_ar")),
    "attention_block": (16, ("bigbird", "linformer")),
    "linformer_dim": (16, ("linformer",)),
}
# What files that we did not write may raise.
NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is; `folder` is where it lives."""

    folder: Path
    config: Config
    vocab: Vocab
    facts: dict  # stage, corpus digest, where it started, most frequent answer
    checkpoint: str = "newest"  # or "best", or an update's number: what is read of it


def read_run(folder: str | Path, checkpoint: str = "newest") -> Run:
    """Returns the run that a folder holds, or raises a UserError that says what is missing.

    Where its files are damaged, the newest sound checkpoint knows what they said. `checkpoint` says which
    parameters a reader gets: "newest", "best", which has the least loss, or an update's number.
    """
    folder = Path(folder)
    if checkpoint not in ("newest", "best") and not checkpoint.isdecimal():
        raise UserError(f"checkpoint {checkpoint!r}: give newest, best or an update's number")
    try:
        config, vocab, facts = map(with_todays_names, _trees(folder))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror}") from None
    except NOT_OURS as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    try:
        for name, kind in FACTS.items():
            if not isinstance(facts.get(name, kind()), kind):
                raise ValueError(f"run.json has {name} {facts[name]!r}")
        if facts["stage"] not in STAGES:
            raise ValueError(f"run.json has stage {facts['stage']!r}")
        return Run(folder, from_dict(config), Vocab(vocab["characters"]), facts, checkpoint)
    except NOT_OURS as error:
        raise UserError(f"{folder} is damaged: {error}") from None


def with_todays_names(tree):
    """Returns what a run of an older version wrote, with the fields that we have today.

    `tree` is the content of a JSON file of a run's folder, or any part of it.
    """
    if not isinstance(tree, dict):
        return tree
    today = {RENAMED.get(name, name): with_todays_names(value) for name, value in tree.items()}
    if "variant" in today and FIELDS_THEN.keys() & today.keys():
        then = {name: today.pop(name) for name in FIELDS_THEN if name in today}
        today["options"] = ",".join(
            f"{name}={value}"
            for name, value in then.items()
            if value != FIELDS_THEN[name][0] and today["variant"] in FIELDS_THEN[name][1]
        )
    return today


def _trees(folder: Path) -> list:
    """Returns config, vocabulary and facts, from a run's files or, if they are damaged, its checkpoint."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: --mode=import makes a run of a course .params file")
    if not holds_run(folder):
        raise UserError(f"{folder} is not a run's folder: it has no config.json")
    problem = damage(folder)
    if not problem:
        return [
            json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("config", "vocab", "run")
        ]
    remembered = _remembered(folder)
    if remembered is None:
        raise UserError(f"{folder} is damaged: {problem}; bring the file back, or train again")
    log.info(f"note: {folder} is damaged, {problem}: what its checkpoint remembers is used")
    return remembered


def _remembered(folder: Path) -> list | None:
    """Returns config, vocabulary and facts as the newest sound checkpoint holds them, None without one."""
    for step in sorted(saved_steps(folder), reverse=True):
        checkpoint = folder / "checkpoints" / str(step)
        if not damage(checkpoint):
            meta = json.loads((checkpoint / "meta" / "metadata").read_text("utf-8"))
            return [meta[name] for name in ("config", "vocab", "facts")]
    return None


def saved_steps(folder: Path) -> Iterator[int]:
    """Yields the steps of a run's checkpoints, in no order, sound or not."""
    found = (folder / "checkpoints").glob("*")
    return (int(path.name) for path in found if path.name.isdecimal() and path.is_dir())


def any_saved(folder: Path) -> bool:
    """Tells whether a run has a checkpoint, sound or not; that of an imported run has step 0."""
    return next(saved_steps(folder), None) is not None


def holds_run(folder: Path) -> bool:
    """Tells whether a folder holds a run, be it of its checkpoints only."""
    return (folder / "config.json").exists() or any_saved(folder)


WRITTEN = ("config.json", "vocab.json", "SHA256SUMS", "metrics.jsonl", "loss.png", "checkpoints")
ASIDE = "set_aside"  # a folder in a run's folder, for what the run does not use any more


def _check_ours(folder: Path):
    """Raises a UserError where a run in `folder` would replace files that no run of ours wrote."""
    if any_saved(folder):
        return
    try:
        ours = json.loads((folder / "run.json").read_text("utf-8"))["stage"] in STAGES
    except (FileNotFoundError, NotADirectoryError):
        ours = False
    except (OSError, *NOT_OURS):
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
    """Moves the files of a run into a new folder below its `set_aside`, and says so; others stay."""
    from kgpt_jax.devices import barrier, is_first  # here, so that reading a run takes no JAX

    with held(folder):
        there = [folder / name for name in (*WRITTEN, "run.json", "vote.json", ".saving")]
        there = [path for path in there if path.exists()]
        if is_first() and there:
            into = free_place(folder, "run")
            into.mkdir(parents=True)
            for path in there:
                path.rename(into / path.name)
            log.info(f"note: what {folder} held of a run lies in {into} now")
        barrier("the folder is free")


def free_place(folder: Path, name: str) -> Path:
    """Returns a path below a run's `set_aside` that nothing has yet."""
    number = 1
    while (place := folder / ASIDE / f"{name}_{number}").exists():
        number += 1
    return place


@contextmanager
def held(folder: Path):
    """Keeps a second training out of a run's folder; a UserError names the process that holds it.

    Of several processes of one training the first has the lock. It is the system's (flock), which ends with
    its process, however that ends. A folder with files of the same names that no run wrote is refused.
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
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

"""Kills, interrupts and damages tiny training runs, and counts what does not survive.

python -m launch.torture [--trials=kill,signal,...] [--times=100] [--seed=0]

Every trial is a promise, and its function's docstring says what it does. Prints a line for each, with how
often it was tried and how often it failed, and writes the same to `--outputs_path`. Ends with status 1 if
anything failed. All that is random follows from the seed, but for what the system's clock decides.
"""

import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging

from kgpt_jax.environment import prepare

FLAGS = flags.FLAGS
SAVE_EVERY = 5
TINY = f"""
    --config.model.n_layer=1 --config.model.n_embd=16 --config.model.n_head=2
    --config.data.biographies.n_train=20 --config.data.biographies.n_dev=10 --config.data.biographies.n_test=5
    --config.pretrain.batch_size=16 --config.pretrain.epochs=4 --config.pretrain.save_every={SAVE_EVERY}
    --config.pretrain.group_by_length=false --config.pretrain.pieces=1
""".split()
SECONDS_TO_STOP = 2.5  # an update of such a run takes far less than half a second
# What makes trouble in a file of text, between ordinary words.
TROUBLE = [
    part.encode() for part in ("\n", "\r\n", "\r", "\t", "\0", "? ", "   ", "Where?\tRome", "Ann Bo. born in")
]
TROUBLE += [part.encode() for part in ("e\u0301", "\ufeff", "\u2028", "\x85", "\xa0", "\U0001f600", "□", "⁇")]
TROUBLE += [b"\xff\xfe", b"\xc3"]
HARMS = ("deleted", "truncated", "emptied", "one bit flipped")


class Result(NamedTuple):
    """What came of a trial; `remark` is a measured figure in words."""

    promise: str
    tried: int
    failures: list[str]
    remark: str = ""


def define_flags():
    flags.DEFINE_list("trials", list(TRIALS), f"Which: {', '.join(TRIALS)}.")
    flags.DEFINE_integer("times", 100, "How often each is tried, where that is open.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of all that is random.")
    flags.DEFINE_integer("corpus_mb", 100, "Of the large corpus.", lower_bound=11)
    flags.DEFINE_string("outputs_path", "runs/torture.json", "Results.")


def command(workdir: Path) -> list[str]:
    return [sys.executable, "-m", "kgpt_jax.main", "--mode=pretrain", f"--workdir={workdir}", *TINY]


def folder(workdir: Path) -> Path:
    return workdir / "vanilla" / "pretrain"


def start(workdir: Path) -> subprocess.Popen:
    return subprocess.Popen(command(workdir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(workdir: Path) -> str:
    """Gives the command and returns what it printed; raises where it ends with another status than 0."""
    return subprocess.run(command(workdir), check=True, capture_output=True, text=True).stdout


def outcome(workdir: Path) -> str:
    """Returns a digest of the last step's parameters and optimiser state, and of the metrics."""
    from kgpt_jax.train.checkpoint import Checkpoints, params_digest
    from kgpt_jax.train.run import read_run

    with Checkpoints(read_run(folder(workdir)), read_only=True) as checkpoints:
        found = checkpoints.manager.restore(checkpoints.step)
        trees = {"params": found["params"], "opt_state": found["opt_state"]}
    return (
        f"{checkpoints.step} {params_digest(trees)} {hash((folder(workdir) / 'metrics.jsonl').read_bytes())}"
    )


def recorded(workdir: Path) -> int:
    """Returns how many updates `metrics.jsonl` holds."""
    path = folder(workdir) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sound_step(workdir: Path) -> int:
    """Returns the newest step whose digests hold, 0 without one."""
    from kgpt_jax.train.digests import damage
    from kgpt_jax.train.run import saved_steps

    steps = saved_steps(folder(workdir))
    return max((s for s in steps if not damage(folder(workdir) / "checkpoints" / str(s))), default=0)


def kill(root: Path, times: int, rng: random.Random) -> Result:
    """kill -9 at random moments, in start-up and saving too; after every fourth the run goes to its end."""
    began = time.perf_counter()
    finish(root / "unbroken")
    seconds, expected = time.perf_counter() - began, outcome(root / "unbroken")
    failures, most_lost, fell = [], 0, Counter()
    for number in range(times):
        workdir = root / f"kill_{number // 4}"
        process = start(workdir)
        moment = rng.uniform(0, seconds)
        time.sleep(moment)
        process.kill()
        process.communicate()
        checkpoints = list((folder(workdir) / "checkpoints").glob("*"))
        in_save = any(path.suffix or not (path / "SHA256SUMS").exists() for path in checkpoints)
        fell["in a save" if in_save else "in training" if recorded(workdir) else "in start-up"] += 1
        lost = recorded(workdir) - sound_step(workdir)
        most_lost = max(most_lost, lost)
        if lost > SAVE_EVERY:
            failures.append(f"kill {number} after {moment:.2f} s lost {lost} updates")
        if number % 4 == 3 or number == times - 1:
            try:
                finish(workdir)
                if outcome(workdir) != expected:
                    failures.append(f"kills up to {number}: other bits")
            except subprocess.CalledProcessError as error:
                failures.append(f"kills up to {number}: {error.stdout}{error.stderr}")
            shutil.rmtree(workdir)
    promise = "kill -9: goes on to the same bits"
    where = ", ".join(f"{count} {place}" for place, count in fell.most_common())
    remark = f"{where}; at most {most_lost} updates lost, saved every {SAVE_EVERY}"
    return Result(promise, times, failures, remark)


def interrupt(root: Path, times: int, rng: random.Random) -> Result:
    """SIGTERM or SIGINT in training: saved, the right status, soon, and on to the same bits."""
    finish(root / "unbroken")
    expected = outcome(root / "unbroken")
    failures, longest = [], 0.0
    for _ in range(times):
        workdir, which = root / "interrupted", rng.choice((signal.SIGTERM, signal.SIGINT))
        process = start(workdir)
        until = rng.randint(1, 40)
        while recorded(workdir) < until and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(which)
        began = time.perf_counter()
        printed, _ = process.communicate()
        took = time.perf_counter() - began
        longest = max(longest, took)
        if took > SECONDS_TO_STOP:
            failures.append(f"{which.name} at update {until}: took {took:.1f} s")
        made = recorded(workdir)
        if process.returncode != 128 + which:
            failures.append(f"{which.name} at update {until}: status {process.returncode}: {printed[-300:]}")
        elif made != sound_step(workdir):
            failures.append(f"{which.name} at update {until}: {made} made, {sound_step(workdir)} saved")
        finish(workdir)
        if outcome(workdir) != expected:
            failures.append(f"{which.name} at update {until}: other bits")
        shutil.rmtree(workdir)
    promise = "SIGTERM, SIGINT: saves, ends with 143, 130"
    return Result(promise, times, failures, f"within {longest:.1f} s")


def harm(path: Path, how: str, rng: random.Random):
    """Damages a file."""
    content = path.read_bytes()
    match how:
        case "deleted":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: rng.randrange(len(content))])
        case "emptied":
            path.write_bytes(b"")
        case "one bit flipped":
            bit = rng.randrange(8 * len(content))
            path.write_bytes(
                content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]
            )


def harmed(root: Path, times: int, rng: random.Random) -> Result:
    """Four kinds of damage to each file of a run's folder and its newest checkpoint, and any bits flipped."""
    from kgpt_jax.train.checkpoint import Checkpoints
    from kgpt_jax.train.digests import damage
    from kgpt_jax.train.run import read_run

    finish(root / "whole")
    pristine = folder(root / "whole")
    run = read_run(pristine)
    newest = Path("checkpoints") / str(sound_step(root / "whole"))
    files = [path.relative_to(pristine) for path in sorted((pristine / newest).rglob("*")) if path.is_file()]
    files += [Path(name) for name in ("config.json", "vocab.json", "run.json", "SHA256SUMS")]
    files = [name for name in files if (pristine / name).stat().st_size]
    cases = [(name, how) for name in files for how in HARMS]
    cases += [(rng.choice(files), "one bit flipped") for _ in range(2 * times)]
    failures = []
    for number, (name, how) in enumerate(cases):
        copy = root / f"copy_{number}"
        shutil.copytree(pristine, copy)
        harm(copy / name, how, rng)
        with redirect_stdout(io.StringIO()):  # what is said of each
            if newest in name.parents:
                with Checkpoints(dataclasses.replace(run, folder=copy), read_only=True) as checkpoints:
                    noticed = checkpoints.step not in (None, int(newest.name))
            else:
                noticed = damage(copy) and dataclasses.replace(read_run(copy), folder=pristine) == run
        if not noticed:
            failures.append(f"{name} {how}: not noticed")
        shutil.rmtree(copy)
    return Result("damage: noticed, the step before is used", len(cases), failures)


def full_disk(root: Path, times: int, rng: random.Random) -> Result:
    """A disk of a random size that fills up: one line, nothing half written, what was saved still loads."""
    disk = root / "disk"
    disk.mkdir()
    failures, stopped, tried = [], 0, 0
    for _ in range(times):
        kilobytes = rng.randrange(20, 700)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            return Result("full disk: one line, no litter", 0, [], "needs a system that lets us mount")
        tried += 1
        done = subprocess.run(command(disk / "runs"), capture_output=True, text=True)
        lines = done.stderr.strip().splitlines()
        stopped += done.returncode != 0
        if done.returncode not in (0, 2) or done.returncode == 2 and len(lines) != 1:
            failures.append(f"{kilobytes} kB: status {done.returncode}, {done.stderr[-300:]}")
        checkpoints = folder(disk / "runs") / "checkpoints"
        litter = [path.name for path in checkpoints.glob("*") if not path.name.isdecimal()]
        unsound = len(list(checkpoints.glob("[0-9]*"))) and not sound_step(disk / "runs")
        if litter or unsound:
            failures.append(f"{kilobytes} kB: left {litter or 'no sound step'}")
        subprocess.run(["umount", str(disk)], check=True)
    return Result("full disk: one line, no litter", tried, failures, f"{stopped} of them too small")


def second(root: Path, times: int, rng: random.Random) -> Result:
    """A second training in one folder, while the first runs and after it was killed."""
    failures = []
    for number in range(times):
        workdir = root / f"second_{number}"
        first = start(workdir)
        while not recorded(workdir) and first.poll() is None:
            time.sleep(0.01)
        done = subprocess.run(command(workdir), capture_output=True, text=True)
        named = f"in use, by process {first.pid} " in done.stderr
        if first.poll() is None and (done.returncode != 2 or not named):
            failures.append(f"{number}: status {done.returncode}: {done.stderr}")
        first.kill()
        first.communicate()
        finish(workdir)
        shutil.rmtree(workdir)
    return Result("a second training: refused; a dead one's lock is free", times, failures)


def not_finite(root: Path, times: int, rng: random.Random) -> Result:
    """Gradients that are NaN at random updates: skipped and counted; five in a row end the run."""
    import numpy as np

    from kgpt_jax.config import UserError, from_dict, override, to_dict
    from kgpt_jax.data.objectives import Material, span_corruption
    from kgpt_jax.train import loop
    from kgpt_jax.train.run import open_run, read_run

    finish(root / "whole")
    whole = read_run(folder(root / "whole"))
    # All in one shape, so that it is compiled once.
    config = override(whole.config, {"pretrain.pieces": 1, "pretrain.group_by_length": False})
    documents = ["Ann Bo was born in Rome and sang in Oslo."] * 48  # three updates an epoch, twelve in all
    objective = span_corruption(Material(documents, []), whole.vocab, config.model)
    make, failures = loop.epoch_pieces, []
    for number in range(times):
        bad = {update for update in range(1, 13) if rng.random() < 0.4}
        rows = "".join("x" if update in bad else "." for update in range(1, 13))
        gives_up = rows.find("xxxxx") + 5 if "xxxxx" in rows else None

        def poisoned(book, model_cfg, cfg, seed, epoch, bad=bad):
            updates = make(book, model_cfg, cfg, seed, epoch)
            for update, pieces in enumerate(updates, epoch * len(updates) + 1):
                if update in bad:
                    pieces[-1] = pieces[-1]._replace(weight=np.float32(np.nan))
            return updates

        loop.epoch_pieces = poisoned
        run = open_run(root / str(number), from_dict(to_dict(config)), whole.vocab, {"stage": "pretrain"})
        try:
            with redirect_stdout(io.StringIO()):
                loop.train(run, config.pretrain, objective, len(documents))
            ended = None
        except UserError as error:
            ended = str(error)
        finally:
            loop.epoch_pieces = make
        records = [json.loads(line) for line in (run.folder / "metrics.jsonl").open()]
        skipped = {record["step"] for record in records if "skipped" in record}
        if skipped != {update for update in bad if update <= len(records)}:
            failures.append(f"{rows}: skipped {sorted(skipped)}")
        elif (ended is None) != (gives_up is None) or ended and f"update {gives_up}, the fifth" not in ended:
            failures.append(f"{rows}: {ended}")
    return Result("NaN gradients: skipped, counted; five in a row end it", times, failures)


def files(root: Path, times: int, rng: random.Random) -> Result:
    """A hundred random files each time: rows, or one line that names the file."""
    from kgpt_jax.config import UserError
    from kgpt_jax.data import corpus

    path, failures = root / "file", []
    for _ in range(100 * times):
        content = b"".join(rng.choice([*TROUBLE, rng.randbytes(3)]) for _ in range(rng.randrange(12)))
        path.write_bytes(content)
        for read in (corpus.read_table, corpus.read_documents):
            try:
                read(str(path))
            except UserError as error:
                if str(path) not in str(error) or "\n" in str(error):
                    failures.append(f"{content!r}: {error}")
            except Exception as error:
                failures.append(f"{content!r}: {type(error).__name__}: {error}")
    return Result("files of any bytes: rows, or one line", 200 * times, failures)


def large(root: Path, times: int, rng: random.Random, size: int = 12) -> Result:
    """A corpus of `size` MB, a line of 10 MB in it: trained on in memory that is in proportion to it."""
    path = root / "corpus.txt"
    people = [f"Ann Bo {i}. Bo was born in {rng.randrange(9**9)} and lived there .\n" for i in range(10_000)]
    with path.open("w") as file:
        file.write("x" * 10_000_000 + "\n")
        while file.tell() < size * 1e6:
            file.writelines(people)
    more = [f"--pretrain_corpus_path={path}", f"--workdir={root / 'runs'}"]
    process = subprocess.Popen(
        [*command(root / "runs"), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    most, asked = 0, False
    while process.poll() is None:
        if recorded(root / "runs") > 2 and not asked:
            process.terminate()
            asked = True
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        most = max(most, int(peak[1]) if peak else 0)
        time.sleep(0.1)
    printed = process.communicate()[0].decode()
    failures = [] if process.returncode == 143 and recorded(root / "runs") > 2 else [printed[-500:]]
    if most / 1e3 > 4 * size + 2_000:
        failures.append(f"{most / 1e3:,.0f} MB of memory")
    return Result(f"a corpus of {size:,} MB", 1, failures, f"{most / 1e3:,.0f} MB of memory at most")


TRIALS = {
    "kill": kill,
    "signal": interrupt,
    "damage": harmed,
    "disk": full_disk,
    "second": second,
    "nan": not_finite,
    "files": files,
    "large": large,
}


def run_trials(names: list[str], times: int, seed: int) -> list[Result]:
    results = []
    for name in names:
        with tempfile.TemporaryDirectory() as root:
            began = time.perf_counter()
            result = TRIALS[name](Path(root), times, random.Random(f"{seed} {name}"))
        results.append(result)
        took = time.perf_counter() - began
        print(f"{result.promise:<56}{result.tried:>5} tried, {len(result.failures)} failed", end="")
        print(f"{'; ' + result.remark if result.remark else ''}  ({took:.0f} s)", flush=True)
        for failure in result.failures[:5]:
            print(f"    {failure}")
    return results


def main(_):
    logging.set_verbosity(logging.FATAL)  # of Orbax
    if unknown := [name for name in FLAGS.trials if name not in TRIALS]:
        print(f"error: unknown trial {unknown[0]!r}; choose from {', '.join(TRIALS)}", file=sys.stderr)
        sys.exit(2)
    TRIALS["large"] = partial(large, size=FLAGS.corpus_mb)
    results = run_trials(FLAGS.trials, FLAGS.times, FLAGS.seed)
    path = Path(FLAGS.outputs_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result._asdict() for result in results], indent=1) + "\n")
    print(f"wrote {path}")
    sys.exit(any(result.failures for result in results))


if __name__ == "__main__":
    prepare()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    define_flags()
    app.run(main)

"""Trials with bad input: damaged files, NaN gradients, files of random bytes, a large corpus."""

import dataclasses
import io
import json
import random
import re
import shutil
import subprocess
import time
from contextlib import redirect_stdout
from pathlib import Path

from tests.torture.tiny_run import Result, command, folder, recorded, valid_step, whole

HARMS = ("deleted", "truncated", "emptied", "one bit flipped")
# Words and bytes that are hard for a reader of text files.
TROUBLE = [
    part.encode() for part in ("\n", "\r\n", "\r", "\t", "\0", "? ", "   ", "Where?\tRome", "Ann Bo. born in")
]
TROUBLE += [part.encode() for part in ("e\u0301", "\ufeff", "\u2028", "\x85", "\xa0", "\U0001f600", "□", "⁇")]
TROUBLE += [b"\xff\xfe", b"\xc3"]


def harm(path: Path, how: str, rng: random.Random):
    """Damages a file in one of the ways in HARMS."""
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
    """Damages each file of a run and of its newest checkpoint in four ways, and flips random bits.

    All damage must be noticed: another checkpoint, or the copy of the manifest, is used instead.
    """
    from kgpt_jax.store.checkpoint import Checkpoints
    from kgpt_jax.store.digests import damage
    from kgpt_jax.store.folder import read_run

    pristine = folder(whole(root))
    run = read_run(pristine)
    newest = Path("checkpoints") / str(valid_step(whole(root)))
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
        with redirect_stdout(io.StringIO()):  # the note about each damage
            if newest in name.parents:
                with Checkpoints(dataclasses.replace(run, folder=copy), read_only=True) as checkpoints:
                    noticed = checkpoints.step not in (None, int(newest.name))
            else:
                noticed = damage(copy) and dataclasses.replace(read_run(copy), folder=pristine) == run
        if not noticed:
            failures.append(f"{name} {how}: not noticed")
        shutil.rmtree(copy)
    return Result("damage: noticed, the step before is used", len(cases), failures)


def not_finite(root: Path, times: int, rng: random.Random) -> Result:
    """Makes gradients NaN at random updates. Each is skipped and counted, and five in a row end the run."""
    import numpy as np

    from kgpt_jax.config import UserError, from_dict, override, to_dict
    from kgpt_jax.data.chunks import Chunks
    from kgpt_jax.data.objectives import Material, span_corruption
    from kgpt_jax.store.compatible import open_run
    from kgpt_jax.store.folder import read_run
    from kgpt_jax.train import loop
    from kgpt_jax.train.feed import Feed

    like = read_run(folder(whole(root)))
    # One shape for all batches, so that the step is compiled once.
    config = override(like.config, {"pretrain.microbatches": 1, "pretrain.group_by_length": False})
    documents = ["Ann Bo was born in Rome and sang in Oslo."] * 48  # three updates an epoch, twelve in all
    objective = span_corruption(Material(documents, []), like.vocab, config.model)
    made, failures = Feed.chunks, []
    for number in range(times):
        bad = {update for update in range(1, 13) if rng.random() < 0.4}
        rows = "".join("x" if update in bad else "." for update in range(1, 13))
        gives_up = rows.find("xxxxx") + 5 if "xxxxx" in rows else None

        def poisoned(feed, epochs, bad=bad):
            for epoch, updates in made(feed, epochs):
                for update, microbatches in enumerate(updates, epoch * len(updates) + 1):
                    if update in bad:
                        microbatches[-1] = microbatches[-1]._replace(weight=np.float32(np.nan))
                yield epoch, updates

        Feed.chunks = poisoned
        run = open_run(root / str(number), from_dict(to_dict(config)), like.vocab, {"stage": "pretrain"})
        try:
            with redirect_stdout(io.StringIO()):
                loop.train(run, config.pretrain, Chunks.of(objective, len(documents)))
            ended = None
        except UserError as error:
            ended = str(error)
        finally:
            Feed.chunks = made
        records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        skipped = {record["step"] for record in records if "skipped" in record}
        if skipped != {update for update in bad if update <= len(records)}:
            failures.append(f"{rows}: skipped {sorted(skipped)}")
        elif (ended is None) != (gives_up is None) or ended and f"update {gives_up}, the fifth" not in ended:
            failures.append(f"{rows}: {ended}")
    return Result("NaN gradients: skipped, counted; five in a row end it", times, failures)


def files(root: Path, times: int, rng: random.Random) -> Result:
    """Reads a hundred random files each time. The result is rows, or an error of one line with the path."""
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
    """Trains on a corpus of `size` MB with a line of 10 MB, which may need at most 2 GB of memory."""
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
    if most / 1e3 > 2_000:
        failures.append(f"{most / 1e3:,.0f} MB of memory")
    return Result(f"a corpus of {size:,} MB", 1, failures, f"{most / 1e3:,.0f} MB of memory at most")

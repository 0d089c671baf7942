"""Trials that disturb a running training from outside: signals, a second training, a full disk."""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from tests.torture.tiny_run import (
    SAVE_EVERY,
    Result,
    command,
    finish,
    folder,
    outcome,
    recorded,
    start,
    valid_step,
    whole,
)

SECONDS_TO_STOP = 2.5  # an update of such a run takes far less than that


def kill(root: Path, times: int, rng: random.Random) -> Result:
    """Kills a run with SIGKILL at random moments, also while it starts or saves.

    After every fourth kill, the run continues to its end, where its bits must equal those of an uninterrupted
    run.
    """
    expected = outcome(whole(root))
    began = time.perf_counter()
    finish(root / "again")  # the length of a run whose programs are compiled, like the following ones
    seconds = time.perf_counter() - began
    failures, most_lost, fell = [], 0, Counter()
    for number in range(times):
        workdir = root / f"kill_{number // 4}"
        before = recorded(workdir), unfinished(workdir)
        process = start(workdir)
        moment = rng.uniform(0, seconds)
        time.sleep(moment)
        ended = process.poll() is not None
        process.kill()
        process.communicate()
        in_save, in_training = unfinished(workdir) - before[1], recorded(workdir) != before[0]
        place = "in a save" if in_save else "in training" if in_training else "in start-up"
        fell["after its end" if ended else place] += 1
        lost = recorded(workdir) - valid_step(workdir)
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
    promise = "kill -9: resumes to the same bits"
    where = ", ".join(f"{count} {place}" for place, count in fell.most_common())
    remark = f"{where}; at most {most_lost} updates lost, saved every {SAVE_EVERY}"
    return Result(promise, times, failures, remark)


def unfinished(workdir: Path) -> set[tuple[str, int]]:
    """Returns (name, time of the last change) of each incomplete checkpoint."""
    paths = (folder(workdir) / "checkpoints").glob("*")
    return {
        (path.name, path.stat().st_ctime_ns)
        for path in paths
        if path.suffix or not (path / "SHA256SUMS").exists()
    }


def interrupt(root: Path, times: int, rng: random.Random) -> Result:
    """Sends SIGTERM or SIGINT. The run must save, exit with the right status, and resume to the same bits."""
    expected = outcome(whole(root))
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
        elif made != valid_step(workdir):
            failures.append(f"{which.name} at update {until}: {made} made, {valid_step(workdir)} saved")
        finish(workdir)
        if outcome(workdir) != expected:
            failures.append(f"{which.name} at update {until}: other bits")
        shutil.rmtree(workdir)
    promise = "SIGTERM, SIGINT: saves, ends with 143, 130"
    return Result(promise, times, failures, f"within {longest:.1f} s")


def second(root: Path, times: int, rng: random.Random) -> Result:
    """Starts a second training in a folder in use, which must fail, and one after the first is killed."""
    failures = []
    for number in range(times):
        workdir = root / f"second_{number}"
        first = start(workdir)
        while not recorded(workdir) and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # stopped, it keeps its lock
        done = subprocess.run(command(workdir), capture_output=True, text=True)
        named = f"in use, by process {first.pid} " in done.stderr
        if done.returncode != 2 or not named:
            failures.append(f"{number}: status {done.returncode}: {done.stderr}")
        first.kill()
        first.communicate()
        finish(workdir)
        shutil.rmtree(workdir)
    return Result("a second training: refused; a dead one's lock is free", times, failures)


def full_disk(root: Path, times: int, rng: random.Random) -> Result:
    """Trains on a disk that is too small. It must print one line, and leave only valid checkpoints."""
    disk = root / "disk"
    disk.mkdir()
    failures, stopped, tried = [], 0, 0
    for _ in range(times):
        kilobytes = rng.randrange(20, 700)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            return Result("full disk: one line, no litter", 0, [], "needs a system that lets us mount")
        tried += 1
        try:
            done = subprocess.run(command(disk / "runs"), capture_output=True, text=True)
            lines = done.stderr.strip().splitlines()
            stopped += done.returncode != 0
            if done.returncode not in (0, 2) or done.returncode == 2 and len(lines) != 1:
                failures.append(f"{kilobytes} kB: status {done.returncode}, {done.stderr[-3000:]}")
            checkpoints = folder(disk / "runs") / "checkpoints"
            litter = [path.name for path in checkpoints.glob("*") if not path.name.isdecimal()]
            unsound = len(list(checkpoints.glob("[0-9]*"))) and not valid_step(disk / "runs")
            if litter or unsound:
                failures.append(f"{kilobytes} kB: left {litter or 'no valid step'}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return Result("full disk: one line, no litter", tried, failures, f"{stopped} of them too small")

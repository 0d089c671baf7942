"""One training in several layouts: real processes, and devices that split one processor."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from kgpt_jax import main
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import locked, read_run
from kgpt_jax.store.params import params_digest
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests.commands import CHECKOUT

TINY = """
    --platform=cpu --config.model.n_layer=1 --config.model.n_embd=16 --config.model.n_head=2
    --config.model.dropout=0.1 --config.model.products=float32 --config.data.biographies.n_train=20
    --config.data.biographies.n_dev=10 --config.data.biographies.n_test=5 --config.pretrain.batch_size=16
    --config.pretrain.group_by_length=false --config.pretrain.microbatches=1
    --config.pretrain.epochs=2 --config.pretrain.save_every=5 --config.data.shards=4
    --config.pretrain.muon_learning_rate=0
""".split()


def layout(devices, processes):
    return [f"--devices={devices}", f"--num_processes={processes}"]


def start(workdir, devices, processes, *flags, **variables):
    command = [sys.executable, "-m", "launch.pretrain", f"--workdir={workdir}", *TINY, *flags]
    command += layout(devices, processes)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=CHECKOUT, env=os.environ | variables, **output)


def finish(*args):
    return finished(start(*args))


def finished(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def folder(workdir):
    return workdir / "vanilla" / "pretrain"


def losses(workdir):
    return [json.loads(line)["loss"] for line in (folder(workdir) / "metrics.jsonl").read_text().splitlines()]


def digest(workdir):
    run = read_run(folder(workdir))
    like = init_state(GPT(run.config.model), make_optimizer(run.config.pretrain), jax.random.key(0))
    with Checkpoints(run, read_only=True) as checkpoints:
        return params_digest(checkpoints.restore(like)[0])


def wait_for(workdir, updates, process):
    metrics = folder(workdir) / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= updates):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process with one device: this process."""
    workdir = tmp_path_factory.mktemp("alone")
    assert main.main(["--mode=pretrain", f"--workdir={workdir}", *TINY[1:]]) == 0
    found = losses(workdir)
    assert len(found) == 22
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder of two processes with two devices each, which find each other as under SLURM's `srun`."""
    workdir = tmp_path_factory.mktemp("two")
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    ranks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    for process in [start(workdir, 2, 0, **step, **rank) for rank in ranks]:
        finished(process)
    return workdir


@pytest.mark.long
def test_several_devices_train_as_one(alone, tmp_path):
    finish(tmp_path, 4, 1)
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-5)


@pytest.mark.long
def test_several_processes_train_as_one(alone, two_processes):
    assert losses(two_processes) == pytest.approx(alone, rel=1e-5)


@pytest.mark.long
def test_processes_stop_together_and_another_layout_goes_on(alone, tmp_path):
    process = start(tmp_path, 2, 2)
    wait_for(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 143, printed
    assert printed.count("stopped by SIGTERM at update ") == 1
    made = losses(tmp_path)
    assert 3 <= len(made) < 22
    printed = finish(tmp_path, 4, 1)
    assert f"at update {len(made)} of 22" in printed
    assert "was begun with devices" not in printed
    assert "was begun with processes 2 and goes on with 1" in printed
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-5)


@pytest.mark.long
def test_when_one_dies_all_start_again_and_end_with_the_same_bits(two_processes, tmp_path):
    process = start(tmp_path, 2, 2, "--max_restarts=2")
    wait_for(tmp_path, 7, process)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(listed) == 2
    os.kill(int(listed[0]), signal.SIGKILL)  # process 0, which coordinates and holds the lock
    began = time.monotonic()
    while os.path.exists(f"/proc/{listed[1]}") and time.monotonic() < began + 30:
        time.sleep(0.01)
    assert time.monotonic() - began < 15
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "all are stopped and start again, 1 restarts left" in printed
    assert digest(tmp_path) == digest(two_processes)


def test_a_dry_run_starts_nothing(launch, tmp_path):
    printed = launch(f"--workdir={tmp_path}", *TINY, *layout(2, 2), "--dry_run")
    lines = printed.splitlines()
    assert len(lines) == 2 and not folder(tmp_path).exists()
    assert lines[1].startswith("JAX_COORDINATOR_ADDRESS=127.0.0.1:8476 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 ")
    assert f"-m launch.pretrain --platform=cpu --devices=2 --workdir={tmp_path} --config.model" in lines[0]
    assert "--num_processes" not in lines[0] and "--dry_run" not in lines[0]


def test_flags_may_come_in_any_order_and_form(launch):
    printed = launch(
        "--variant", "rope", "--num_processes", "2", "--nodry_run", "--platform=cpu", "--dry_run"
    )
    assert printed.splitlines()[0].endswith("-m launch.pretrain --platform=cpu --variant rope")


def test_flags_count_more_than_a_clusters_variables(launch):
    step = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}
    lines = launch("--num_processes=2", "--platform=cpu", "--dry_run", **step).splitlines()
    assert len(lines) == 2 and all(f"JAX_PROCESS_ID={i} " in line for i, line in enumerate(lines))
    assert launch("--num_processes=1", "--dry_run", **step).splitlines()[-1] == "one process"


@pytest.mark.parametrize("help", ["--help", "-help"])
def test_help_lists_the_launchers_flags_and_then_the_modes(launch, capsys, help):
    with pytest.raises(SystemExit, match="0"):
        launch("--platform=cpu", help)
    printed = capsys.readouterr().out
    places = [printed.index(f"\n  --{name}  ") for name in ("max_restarts", "start_anew", "variant")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--num_processes=two"], "--num_processes=two"),
        (["--platform=gpus"], "--platform=gpus"),
        (["--num_processes=2"], "--num_processes needs --platform"),
        (["--coordinator=a:1"], "--coordinator needs --num_processes, 2 or more, and --process_id"),
        (["--process_id=1"], "--process_id needs --coordinator=host:port"),
        (["--coordinator=auto", "--num_processes=2"], "JAX finds the processes: leave out --num_processes"),
        (["--coordinator=auto", "--max_restarts=1"], "leave it out on a cluster"),
        (["--nodry_run=1"], "does not take an argument"),
    ],
)
def test_a_wrong_flag_is_one_line(launch, capsys, words, complaint):
    with pytest.raises(SystemExit, match="2"):
        launch(*words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and complaint in line


@pytest.mark.long
def test_a_mistake_that_one_process_meets_ends_all_and_is_not_tried_again(tmp_path):
    with locked(folder(tmp_path)):  # only the first process asks for it
        process = start(tmp_path, 1, 2, "--max_restarts=5")
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert printed.count(f"is in use, by process {os.getpid()} ") == 1
    assert "restarts left" not in printed

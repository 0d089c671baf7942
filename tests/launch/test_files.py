"""The job files: their commands are accepted and find their place. The rest shows on a cluster only."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.commands import CHECKOUT

LAUNCH = CHECKOUT / "launch"


@pytest.fixture
def dry_run(launch):
    """A function that returns what a file's command would do."""

    def printed(command, **variables):
        python, *module = command[:3]
        assert python.endswith("python") and module == ["-m", "launch.pretrain"]
        return launch(*command[3:], "--dry_run", **variables)

    return printed


def bare_checkout(folder):
    """Makes a folder with a virtual environment whose Python is the one that runs these tests."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").write_text(
        f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} "$@"\n'
    )
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    return folder


def stub(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def with_an_old_python(folder):
    """Returns variables of a machine whose own Python cannot hold JAX; stand-ins for pip and uv can."""
    stub(bare_checkout(folder / "made") / ".venv" / "bin", "pip", "")
    stub(folder / "bin", "uv", f'[[ "$*" == "venv "*"--python 3.12 .venv" ]] && cp -r {folder}/made/.venv .')
    installs = '[ "$*" = "-m pip install -qU --target=.uv uv" ] && mkdir -p .uv/bin'
    stub(folder / "bin", "python3", f"{installs} && cp {folder}/bin/uv .uv/bin")
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}


def test_jobset(dry_run):
    (document,) = yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"] == 2
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    variables = {row["name"]: row["value"] for row in container["env"]}
    # JobSet calls pod i of job j of a replicated job NAME-JOB-j-i, in a service NAME.
    host = f"{document['metadata']['name']}-{replicated['name']}-0-0.{document['metadata']['name']}"
    assert variables == {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"{host}:8476"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {row["name"] for row in pod["volumes"]}
    printed = dry_run(container["command"], **variables, JOB_COMPLETION_INDEX="1")
    assert f"'num_processes': 2, 'process_id': 1, 'coordinator_address': '{host}:8476'" in printed


def test_skypilot(dry_run, tmp_path):
    document = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(document) == {"name", "num_nodes", "resources", "workdir", "file_mounts", "setup", "run"}
    (workdir,) = document["file_mounts"]
    command = document["run"].split()
    assert f"--workdir={workdir}" in command
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    expected = "'num_processes': 2, 'process_id': 1, 'coordinator_address': '10.0.0.1:8476'"
    assert expected in dry_run(command, **nodes)
    assert "one process" in dry_run(command)
    (tmp_path / "workdir").mkdir()
    setup = ["bash", "-ec", document["setup"]]
    subprocess.run(setup, cwd=tmp_path / "workdir", env=with_an_old_python(tmp_path), check=True)
    assert (tmp_path / "workdir" / ".venv" / "bin" / "python").exists()


def test_slurm(tmp_path):
    script = LAUNCH / "slurm.sbatch"
    options = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue"} <= set(options)
    stub(tmp_path / "bin", "srun", 'export SLURM_PROCID=5 SLURM_LOCALID=1; shift 2; exec "$@"')
    stub(tmp_path / "bin", "scontrol", "echo scontrol $*")
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "8",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_STEP_NODELIST": "n[1-2]",
    }
    environment = {**os.environ, **job, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    def submit():
        command = ["bash", script, "--dry_run"]
        checkout = bare_checkout(tmp_path) if not (tmp_path / ".venv").exists() else tmp_path
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)

    done = submit()
    assert done.returncode == 0, done.stderr
    expected = {"num_processes": 8, "process_id": 5, "local_device_ids": [1]}
    assert f"initialize(**{expected})" in done.stdout  # JAX finds the address
    stub(tmp_path / "bin", "srun", "exit 143")  # stopped, and saved
    assert (submit().returncode, submit().stdout) == (143, "scontrol requeue 7\n")
    stub(tmp_path / "bin", "srun", "exit 2")
    assert (submit().returncode, submit().stdout) == (2, "")


def test_tpu_vm(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    stub(
        tmp_path / "bin",
        "gcloud",
        f"""cd {home}; for word; do [[ $word == --command=* ]] && command=${{word#--command=}}; done
        case $4 in scp) cp "$5" "${{6#*:}}";; ssh) bash -c "$command";; esac
        """,
    )
    # On macOS, mktemp takes no long options.
    stub(tmp_path / "bin", "mktemp", f"[ $# = 0 ] && exec {shutil.which('mktemp')}")
    place = ["my-tpu", "zone", "/mnt/runs"]
    script = ["bash", LAUNCH / "tpu_vm.sh", *place, "--objective=whole_line=1", "--dry_run"]
    done = subprocess.run(script, env=with_an_old_python(tmp_path), capture_output=True, text=True)
    if "not a git repository" in done.stderr:
        pytest.skip("the script sends what git knows, and this is no checkout")
    assert done.returncode == 0, done.stderr
    assert "--workdir=/mnt/runs" in done.stdout and "jax.distributed.initialize(**{})" in done.stdout

"""Finds the number of processes and this process's rank in the environment variables that a cluster sets.

| environment | processes and rank | address of process 0 |
| --- | --- | --- |
| plain, Kubeflow | JAX_NUM_PROCESSES, JAX_PROCESS_ID | JAX_COORDINATOR_ADDRESS |
| Kubernetes (indexed Job, JobSet) | JAX_NUM_PROCESSES, JOB_COMPLETION_INDEX | JAX_COORDINATOR_ADDRESS |
| OpenMPI | OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_RANK | found by JAX, in OMPI_MCA_orte_hnp_uri |
| SkyPilot | SKYPILOT_NUM_NODES, SKYPILOT_NODE_RANK | first of SKYPILOT_NODE_IPS |
| SLURM | SLURM_NTASKS, SLURM_PROCID | found by JAX, in SLURM_STEP_NODELIST |
| torchrun | WORLD_SIZE, RANK | MASTER_ADDR, and the port after MASTER_PORT, which torchrun itself uses |

The first row whose variables are set applies. If JAX_COORDINATOR_ADDRESS is set, it replaces the last column.
A Cloud TPU sets none of these variables: use `--coordinator=auto`, with which JAX detects everything itself.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kgpt_jax.config import UserError

PORT = 8476  # of process 0, if the cluster gives only its host


class Cluster(NamedTuple):
    """The variables of one kind of cluster."""

    size: str  # the number of processes
    rank: str  # this process's number, from 0
    address: Callable[[Mapping[str, str]], str] = lambda environ: ""  # of process 0; "" if unknown
    local_rank: str = ""  # this process's number on its machine, if each process takes one GPU
    local_size: str = ""  # the number of processes on its machine
    read_by_jax: str = ""  # where JAX finds the address, with a port that differs between jobs


def arguments(environ: Mapping[str, str]) -> dict | None:
    """Returns keyword arguments for `jax.distributed.initialize`; None if this is the only process.

    If the result lacks `coordinator_address`, JAX detects the address. Otherwise JAX's own detection is
    switched off, because inside a SLURM job it would choose this process's GPU by SLURM's variables.

    Args:
      environ: the environment variables.

    Raises:
      UserError: a variable is not a number or out of range, or no variable gives the address of process 0.

    >>> arguments({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "n[1-2]"})
    {'num_processes': 2, 'process_id': 1}
    >>> arguments({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    """
    cluster = next((each for each in CLUSTERS if each.size in environ and each.rank in environ), None)
    if cluster is None:
        return None
    n, i = _number(environ, cluster.size), _number(environ, cluster.rank)
    if n == 1:
        return None
    if not 0 <= i < n:
        raise UserError(f"{cluster.rank} is {i} of {cluster.size} {n} processes: give 0 to {n - 1}")
    found = {"num_processes": n, "process_id": i}
    if address := environ.get("JAX_COORDINATOR_ADDRESS") or cluster.address(environ):
        address = address if re.search(r":\d+$", address) else f"{address}:{PORT}"
        found |= {"coordinator_address": address, "cluster_detection_method": "deactivate"}
    elif cluster.read_by_jax not in environ:
        raise UserError(
            f"{cluster.size} is {n}, and nothing gives the address of process 0: set "
            "JAX_COORDINATOR_ADDRESS=host:port"
        )
    if cluster.local_rank in environ:
        alone = environ.get(cluster.local_size) == "1"
        takes_all = alone or (cluster.size == "SLURM_NTASKS" and _has_its_own_gpus(environ))
        # An empty list means all GPUs that this process sees. Without it, JAX would choose one.
        found["local_device_ids"] = [] if takes_all else [_number(environ, cluster.local_rank)]
    return found


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f"{name} is {environ[name]!r}: give a whole number") from None


def _has_its_own_gpus(environ: Mapping[str, str]) -> bool:
    """Returns whether SLURM shows this process only its own GPUs, or it is alone on its node."""
    names = ("SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    per_node = next((environ[name] for name in names if name in environ), "")
    return "SLURM_GPUS_PER_TASK" in environ or re.fullmatch(r"1(\(x\d+\))?", per_node) is not None


def _openmpi(environ: Mapping[str, str]) -> str:
    # JAX leaves out the brackets of an IPv6 address, as in "1.0;tcp6://[fe80::1,fe80::2]:34911".
    found = re.search(r"tcp6://\[([^,\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    return f"[{found[1]}]" if found else ""


def _skypilot(environ: Mapping[str, str]) -> str:
    return environ.get("SKYPILOT_NODE_IPS", "").strip().split("\n")[0]


def _torchrun(environ: Mapping[str, str]) -> str:
    host = environ.get("MASTER_ADDR", "")
    port = _number(environ, "MASTER_PORT") if "MASTER_PORT" in environ else PORT
    taken = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun itself listens at MASTER_PORT
    return f"{host}:{port + taken}" if host else ""


CLUSTERS = (
    Cluster("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    Cluster("JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX"),
    Cluster(
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        _openmpi,
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
        read_by_jax="OMPI_MCA_orte_hnp_uri",
    ),
    Cluster("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK", _skypilot),
    Cluster("SLURM_NTASKS", "SLURM_PROCID", local_rank="SLURM_LOCALID", read_by_jax="SLURM_STEP_NODELIST"),
    Cluster("WORLD_SIZE", "RANK", _torchrun, local_rank="LOCAL_RANK", local_size="LOCAL_WORLD_SIZE"),
)

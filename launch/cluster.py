"""From a cluster's environment variables to the arguments of `jax.distributed.initialize`.

| environment | processes and rank | coordinator |
| --- | --- | --- |
| plain, Kubeflow | JAX_NUM_PROCESSES, JAX_PROCESS_ID | JAX_COORDINATOR_ADDRESS |
| Kubernetes (indexed Job, JobSet) | JAX_NUM_PROCESSES, JOB_COMPLETION_INDEX | JAX_COORDINATOR_ADDRESS |
| torchrun and its like | WORLD_SIZE, RANK | MASTER_ADDR, MASTER_PORT |
| SkyPilot | SKYPILOT_NUM_NODES, SKYPILOT_NODE_RANK | first of SKYPILOT_NODE_IPS |
| SLURM | SLURM_NTASKS, SLURM_PROCID | first of SLURM_STEP_NODELIST |
| OpenMPI | OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_RANK | first host of OMPI_MCA_orte_hnp_uri |

JAX_COORDINATOR_ADDRESS comes before what the last column says.
"""

import re
from collections.abc import Mapping

from kgpt_jax.config import UserError

PORT = 8476  # JAX's own choice for a coordinator


def arguments(environ: Mapping[str, str]) -> dict | None:
    """Returns coordinator_address, num_processes, process_id (and local_device_ids); None for one process.

    A UserError says which variable is missing or no number.

    >>> arguments({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "99"})
    {'coordinator_address': 'a:99', 'num_processes': 2, 'process_id': 1}
    >>> arguments({"SLURM_NTASKS": "1"})
    """
    for size, rank, where in CLUSTERS:
        if size in environ and rank in environ:
            n, i = _number(environ, size), _number(environ, rank)
            if n == 1:
                return None
            if not 0 <= i < n:
                raise UserError(f"{rank} is {i} of {size} {n} processes: give 0 to {n - 1}")
            address = environ.get("JAX_COORDINATOR_ADDRESS") or where(environ)
            if not address:
                raise UserError(
                    f"{size} is {n}, and nothing says where process 0 is: set "
                    "JAX_COORDINATOR_ADDRESS=host:port"
                )
            address = address if re.search(r":\d+$", address) else f"{address}:{PORT}"
            found = {"coordinator_address": address, "num_processes": n, "process_id": i}
            local = ONE_GPU_EACH.get(size, "")
            if local in environ and not (size == "SLURM_NTASKS" and _has_its_own_gpus(environ)):
                found["local_device_ids"] = [_number(environ, local)]
            return found
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f"{name} is {environ[name]!r}: give a whole number") from None


def _master(environ: Mapping[str, str]) -> str:
    host, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", str(PORT))
    return f"{host}:{port}" if host else ""


def _slurm(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    job = environ.get("SLURM_JOB_ID", "0")
    port = 49152 + int(job) % 16384 if job.isdecimal() else PORT  # jobs that share a node must not meet
    return f"{first_node(nodes)}:{port}" if nodes else ""


def _has_its_own_gpus(environ: Mapping[str, str]) -> bool:
    """Tells whether SLURM gives a process GPUs of its own, or it is the only one on its node."""
    names = ("SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    a_node = next((environ[name] for name in names if name in environ), "")
    return "SLURM_GPUS_PER_TASK" in environ or re.fullmatch(r"1(\(x\d+\))?", a_node) is not None


def first_node(nodes: str) -> str:
    """Returns the first host of a list as SLURM writes it.

    >>> first_node("gpu-[007-009,012],login1")
    'gpu-007'
    >>> first_node("a1,b2")
    'a1'
    """
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return found[1] + (found[2] or "")


def _openmpi(environ: Mapping[str, str]) -> str:
    # Such as "1531576320.0;tcp://10.0.0.1,10.1.0.1:34911" or "1.0;tcp6://[fe80::1,fe80::2]:34911".
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    if found := re.search(r"tcp6://\[([^,\]]+)", uri):
        return f"[{found[1]}]"
    found = re.search(r"tcp://([^,:]+)", uri)
    return found[1] if found else ""


def _skypilot(environ: Mapping[str, str]) -> str:
    return environ.get("SKYPILOT_NODE_IPS", "").strip().split("\n")[0]


# What says how many processes there are, which is this one, and where the first is. The first found holds.
CLUSTERS = (
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", lambda environ: ""),
    ("JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX", lambda environ: ""),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", _openmpi),
    ("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK", _skypilot),
    ("SLURM_NTASKS", "SLURM_PROCID", _slurm),
    ("WORLD_SIZE", "RANK", _master),
)
# What starts a process for each GPU of a machine, and says which of them this one is.
ONE_GPU_EACH = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_NTASKS": "SLURM_LOCALID",
    "WORLD_SIZE": "LOCAL_RANK",
}

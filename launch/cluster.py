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
            local = environ.get("SLURM_LOCALID" if size == "SLURM_NTASKS" else "OMPI_COMM_WORLD_LOCAL_RANK")
            if size in ONE_GPU_EACH and local is not None and "SLURM_GPUS_PER_TASK" not in environ:
                if environ.get("SLURM_NTASKS_PER_NODE", "") != "1":
                    found["local_device_ids"] = [int(local)]
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
    # Such as "1531576320.0;tcp://10.0.0.1,10.1.0.1:34911", with brackets around addresses of IPv6.
    found = re.search(r"tcp6?://\[?([^,:\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
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
ONE_GPU_EACH = ("OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")  # which start a process for each GPU of a machine

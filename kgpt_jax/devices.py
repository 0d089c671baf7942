"""The devices: the mesh, the placement of arrays on it, exchange between processes, and memory.

Few other files depend on the number of devices or processes. The mesh has two axes: `data` shards the rows of
a batch, and `model` shards large parameters by RULES. With one device, both axes have size 1. A process holds
NumPy arrays, and copies the shards of its own devices from them.
"""

import logging
import math
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kgpt_jax.config import UserError, first_line
from kgpt_jax.environment import cores, processor

log = logging.getLogger(__name__)

# (pattern of a parameter's path, axis to shard over `model`). Axes count from the end; None replicates the
# parameter. The first pattern that matches applies; a parameter that matches none is replicated. Linear
# layers are sharded by columns. A linear layer that follows another is sharded by rows instead, so that
# devices only have to add up its outputs (Megatron-LM, arXiv 1909.08053).
RULES = (
    (r"(^|/)ln\w*/", None),  # norms: their biases must not match the rule for linear layers below
    (r"(proj|down)/kernel$", -2),
    (r"(proj|down)/bias$", None),
    (r"/(kernel|bias)$", -1),
    (r"tok_emb/embedding$", -2),
)

MOST_CALLS = 4  # calls at the same time; each needs memory of its own


@cache  # so that its note is logged once
def make_mesh(n_rows: int | None, model_devices: int = 1) -> Mesh:
    """Returns a mesh with axes (`data`, `model`) of as many devices as can share the work evenly.

    Args:
      n_rows: rows of a microbatch. The size of the `data` axis must divide it, which may leave devices
        unused. None uses all devices.
      model_devices: the size of the `model` axis.

    Raises:
      UserError: `model_devices` does not divide the number of devices, or a process would be left without
        work.
    """
    devices = jax.devices()
    if len(devices) % model_devices:
        raise UserError(
            f"model_devices is {model_devices}, and JAX finds {len(devices)} devices: give a number that "
            f"divides {len(devices)}, by --config.model_devices"
        )
    n_data = len(devices) // model_devices
    while n_rows is not None and n_rows % n_data:
        n_data -= 1
    used = devices[: n_data * model_devices]
    if len(used) < len(devices):
        if jax.process_count() > 1:
            raise UserError(
                f"{len(devices)} devices in {jax.process_count()} processes cannot share {n_rows} texts "
                "evenly: change batch_size or microbatches"
            )
        log.info(
            f"note: {len(used)} of {len(devices)} devices are used: that many share {n_rows} texts evenly"
        )
    return jax.make_mesh(
        (n_data, model_devices), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=used
    )


def path_name(path) -> str:
    """Returns the path of a leaf of a tree as text, such as "ln_f/scale"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree, mesh: Mesh):
    """Returns the sharding of each leaf of a tree, chosen from the leaf's path by RULES.

    An axis is not sharded if the size of the `model` axis does not divide it.

    Args:
      tree: parameters, or a tree that contains trees like theirs, such as an optimiser's state.
      mesh: the devices.
    """

    def place(path, leaf) -> NamedSharding:
        name = path_name(path)
        spec, n = [None] * leaf.ndim, mesh.shape["model"]
        axis = next((axis for pattern, axis in RULES if re.search(pattern, name)), None)
        if axis is not None and n > 1 and leaf.ndim >= -axis and leaf.shape[axis] % n == 0:
            spec[axis] = "model"
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def place_params(tree, mesh: Mesh):
    """Returns parameters, NumPy arrays or JAX arrays on any devices, placed as `shardings` says."""

    def one(leaf, place) -> jax.Array:
        if isinstance(leaf, jax.Array) and len(leaf.devices()) > 1:
            return jax.device_put(leaf, place)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])

    return jax.tree.map(one, tree, shardings(tree, mesh))


def to_numpy(array) -> np.ndarray:
    """Returns a whole array as NumPy, in every process. All processes must call this at the same point."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a copy of an array on every device."""
    return NamedSharding(mesh, P())


def own_positions(mesh: Mesh) -> list[int]:
    """Returns the positions on the mesh's `data` axis whose rows this process needs.

    These are the positions of its own devices. If two processes share some of their positions but not all,
    every process gets all positions.
    """
    owners = [frozenset(device.process_index for device in devices) for devices in mesh.devices]
    different = set(owners)
    apart = sum(map(len, different)) == len(frozenset().union(*different))
    return [i for i, processes in enumerate(owners) if not apart or jax.process_index() in processes]


def place_rows(array: np.ndarray, mesh: Mesh, axis: int, positions: Sequence[int] | None = None) -> jax.Array:
    """Returns a JAX array whose axis of rows is sharded over the mesh's `data` axis.

    Args:
      array: the rows of `positions`, in the same order.
      mesh: the devices.
      axis: the axis of the rows.
      positions: the positions on `data` whose rows `array` holds; must include this process's own. None: all.
    """
    positions = range(mesh.shape["data"]) if positions is None else positions
    size, rest = divmod(array.shape[axis], len(positions))
    assert not rest, f"{array.shape[axis]} rows do not divide evenly over {len(positions)} positions"
    shape = (*array.shape[:axis], size * mesh.shape["data"], *array.shape[axis + 1 :])

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first = positions.index((index[axis].start or 0) // size) * size
        return array[(*index[:axis], slice(first, first + size))]

    place = NamedSharding(mesh, P(*[None] * axis, "data"))
    return jax.make_array_from_callback(shape, place, part)


def calls_at_once(n: int) -> int:
    """Returns how many threads should make `n` calls of compiled programs.

    On a CPU, XLA computes much of a call on one core only: norms, GELU, the softmax, small products. JAX runs
    the calls of one thread in order, and calls of different threads at the same time. The result is at most
    the number of cores and MOST_CALLS. It is 1 on a GPU or TPU. It is also 1 with several devices, because
    these must exchange data in the same order.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 1
    return max(1, min(n, cores(), MOST_CALLS))


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def barrier(purpose: str):
    """Waits until all processes have called this. `purpose` must be the same in all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is true in any process. All processes must call this at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def all_gather(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers of all processes, stacked along a new first axis.

    All processes must call this at the same point, with arrays of one shape and a 32-bit type.
    """
    if jax.process_count() == 1:
        return numbers[None]
    return multihost_utils.process_allgather(numbers)


def broadcast(number: int | float) -> int | float:
    """Returns the first process's number in every process. All must call this at the same point."""
    if jax.process_count() == 1:
        return number
    return multihost_utils.broadcast_one_to_all(np.array(number)).item()


WHEELS = {"gpu": "jax[cuda13]", "cuda": "jax[cuda13]", "tpu": "jax[tpu]"}


def find_devices(platform: str | None = None):
    """Initialises JAX's devices.

    Args:
      platform: the platform that an error names; None: the one in the variable JAX_PLATFORMS.

    Raises:
      UserError: JAX finds no device of the platform. The message says which wheel to install.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX without its CUDA plugin fails an assertion
        platform = platform or os.environ.get("JAX_PLATFORMS") or "device"
        wheel = WHEELS.get(platform, "jax")
        why = f" ({first_line(error)})" if str(error) else ""
        raise UserError(
            f'JAX finds no {platform} here{why}: on such a machine, pip install -U "{wheel}"; '
            "JAX_PLATFORMS=cpu uses the processor"
        ) from None


CONTAINERS_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a number of bytes, or "max"


def memory() -> float:
    """Returns the most bytes that arrays may take, infinity if this is not known.

    On a GPU or TPU, this is the part of the first device's memory that JAX may use. On a CPU, it is the
    memory of the machine, or a container's limit if this is lower.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", math.inf)
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):
        found.append(int(CONTAINERS_LIMIT.read_text("ascii")))
    return min(found)


def check_memory(purpose: str, needed: float, advice: str):
    """Raises a UserError if an operation needs more than `memory()`.

    It checks nothing if there are several processes, or several GPUs or TPUs, because each may then hold only
    a part of the arrays.

    Args:
      purpose: the operation; the message begins with it.
      needed: bytes.
      advice: what the user can do; the message ends with it.
    """
    there, device = memory(), jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    if needed > there and jax.process_count() == 1 and (on_cpu or jax.device_count() == 1):
        gb = f"{there / 1e9:,.1f} GB"
        limit = f"this machine has {gb}" if on_cpu else f"JAX may use {gb} on this {device.device_kind}"
        raise UserError(f"{purpose} needs {needed / 1e9:,.1f} GB of memory or more, and {limit}: {advice}")


def made_on() -> dict[str, str | int]:
    """Returns what a result's last bits depend on: versions, processor, devices and threads."""
    import jaxlib

    names = ("flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        **{name: version(name) for name in names},
        "processor": processor("model name") or platform.processor() or platform.machine(),
        "processes": jax.process_count(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "threads": cores(),
    }

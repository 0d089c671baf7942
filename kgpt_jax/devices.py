"""Where arrays live: the mesh of devices, and each parameter's place on it. All else is ignorant of devices.

The mesh has two axes: texts are dealt out over `data`, and large parameters over `model`, as RULES say. With
one device both have size 1. Each process holds its own devices' part of every array; it is given whole NumPy
arrays, and puts on its devices what belongs there.
"""

import logging
import math
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kgpt_jax.config import UserError
from kgpt_jax.environment import processor

log = logging.getLogger(__name__)

# A pattern of a parameter's path, and the axis that is split over `model`, counted from the end; None: the
# parameter is whole on every device. The first pattern that fits holds. Linear layers are split by columns; the
# second of two that follow each other is split by rows, so that devices only have to add up its outputs
# (Megatron-LM, arXiv 1909.08053). What no pattern fits is whole.
RULES = (
    (r"(^|/)ln\w*/", None),  # norms, whose bias is no linear layer's
    (r"(proj|down)/kernel$", -2),
    (r"(proj|down)/bias$", None),
    (r"/(kernel|bias)$", -1),
    (r"tok_emb/embedding$", -2),
)


def make_mesh(n_rows: int | None, model_devices: int = 1) -> Mesh:
    """Returns a mesh of all devices that can share a microbatch of `n_rows` texts evenly; None: of all devices.

    A UserError where that leaves out devices of other processes, or where `model_devices` do not fit.
    """
    devices = jax.devices()
    if len(devices) % model_devices:
        raise UserError(
            f"model_devices is {model_devices}, which {len(devices)} devices are no multiple of: "
            "give another --config.model_devices"
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


def shardings(tree, mesh: Mesh):
    """Returns each leaf's place, by its path and RULES; `tree` may be of parameters or of what follows them.

    An axis that `model` does not divide stays whole.
    """

    def place(path, leaf) -> NamedSharding:
        name = "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path
        )
        spec, n = [None] * leaf.ndim, mesh.shape["model"]
        axis = next((axis for pattern, axis in RULES if re.search(pattern, name)), None)
        if axis is not None and n > 1 and leaf.ndim >= -axis and leaf.shape[axis] % n == 0:
            spec[axis] = "model"
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def put(tree, mesh: Mesh):
    """Returns arrays of parameters, NumPy's or on whatever devices, each in its place."""

    def one(leaf, place) -> jax.Array:
        if isinstance(leaf, jax.Array) and len(leaf.devices()) > 1:
            return jax.device_put(leaf, place)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])

    return jax.tree.map(one, tree, shardings(tree, mesh))


def to_numpy(array) -> np.ndarray:
    """Returns an array as a whole, in every process, wherever its parts lie."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the place of what every device has a copy of."""
    return NamedSharding(mesh, P())


def own_shares(mesh: Mesh) -> list[int]:
    """Returns which of the shares of a batch, one for each position along `data`, this process trains on.

    Processes have the same shares or none in common; where they don't, each is given all.
    """
    owners = [frozenset(device.process_index for device in devices) for devices in mesh.devices]
    different = set(owners)
    apart = sum(map(len, different)) == len(frozenset().union(*different))
    return [i for i, processes in enumerate(owners) if not apart or jax.process_index() in processes]


def deal(array: np.ndarray, mesh: Mesh, axis: int, shares: Sequence[int] | None = None) -> jax.Array:
    """Returns an array whose `axis` is dealt out over `data`; each process puts down its own part.

    The array that is given holds these `shares` of it, one behind the other, or, with None, all.
    """
    shares = range(mesh.shape["data"]) if shares is None else shares
    size, rest = divmod(array.shape[axis], len(shares))
    assert not rest, f"{array.shape[axis]} rows are no {len(shares)} even shares"
    shape = (*array.shape[:axis], size * mesh.shape["data"], *array.shape[axis + 1 :])

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first = shares.index((index[axis].start or 0) // size) * size
        return array[(*index[:axis], slice(first, first + size))]

    place = NamedSharding(mesh, P(*[None] * axis, "data"))
    return jax.make_array_from_callback(shape, place, part)


def is_first() -> bool:
    """Tells whether this is the process that writes files and the screen."""
    return jax.process_index() == 0


def barrier(purpose: str):
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def any_process(flag: bool) -> bool:
    """Tells whether any process says so; all must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def all_gather(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers of every process, along a new first axis; they have 32 bits. All must ask."""
    if jax.process_count() == 1:
        return numbers[None]
    return multihost_utils.process_allgather(numbers)


def broadcast(number: int | float) -> int | float:
    """Returns the first process's number, in all of them."""
    if jax.process_count() == 1:
        return number
    return multihost_utils.broadcast_one_to_all(np.array(number)).item()


WHEELS = {"gpu": "jax[cuda13]", "cuda": "jax[cuda13]", "tpu": "jax[tpu]"}


def find_devices(platform: str | None = None):
    """Starts JAX's devices; a UserError where it finds none of the platform.

    None stands for the platform that JAX_PLATFORMS names.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # without its CUDA plugin JAX fails an assertion
        platform = platform or os.environ.get("JAX_PLATFORMS") or "device"
        wheel = WHEELS.get(platform, "jax")
        raise UserError(
            f'JAX finds no {platform} here: on such a machine, pip install -U "{wheel}"; JAX_PLATFORMS=cpu '
            "uses the processor"
        ) from None


def memory() -> float:
    """Returns the bytes of this machine's memory, infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def check_memory(purpose: str, needed: float, advice: str):
    """Raises a UserError with the advice where `needed` bytes are more than this machine's memory.

    Asks nothing where arrays lie elsewhere, on other devices than CPUs or in several processes.
    """
    there = memory()
    if needed > there and jax.default_backend() == "cpu" and jax.process_count() == 1:
        raise UserError(
            f"{purpose} needs {needed / 1e9:,.1f} GB of memory or more, and this machine has "
            f"{there / 1e9:,.1f} GB: {advice}"
        )


def made_on() -> dict[str, str | int]:
    """Returns what decides the bits of a result beside the config: versions, processor, devices, threads."""
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
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }

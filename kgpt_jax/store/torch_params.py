"""The course's PyTorch parameter files: read into our parameters, and written from them.

The two layouts differ in three ways: in names, in the kernels of linear layers, which are transposed, and in
a leading axis of size one on `pos_emb` and on the perceiver's latents. Only this file needs PyTorch.
"""

import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig, UserError, first_line
from kgpt_jax.devices import path_name
from kgpt_jax.model.gpt import abstract_params, count_params
from kgpt_jax.model.rope import BASE
from kgpt_jax.model.variants import draws_patterns
from kgpt_jax.store.atomic import replacing

LEADING_ONE = ("pos_emb", "stack/latents")
PATTERN_SEED = "pattern_seed"
LATENTS = "down_block.C"  # the course's name of the perceiver's latents, of shape (1, M, C)
COURSE_NAMES = (
    (r"^stack/", ""),
    (r"^latents$", "down_block/C"),
    (r"^blocks_(\d+)", r"blocks/\1"),
    (r"/readout/", "/"),
    (r"/mlp/up/", "/mlp/0/"),
    (r"/mlp/down/", "/mlp/2/"),
    (r"/(kernel|scale|embedding)$", "/weight"),
    ("/", "."),
)


def torch_name(path: str) -> str:
    """Returns the course's name of one of our parameters.

    >>> torch_name("stack/blocks_3/attn/readout/proj/kernel")
    'blocks.3.attn.proj.weight'
    """
    for pattern, replacement in COURSE_NAMES:
        path = re.sub(pattern, replacement, path)
    return path


def from_torch(arrays: dict, cfg: ModelConfig) -> dict:
    """Converts the course's parameters, `{course name: array}`, to ours.

    The course's files also hold constants, such as causal masks. These may be missing; any that are present
    must equal the constants of the model in `cfg`.

    Raises:
      UserError: a parameter is missing, unknown, not finite, or of another shape or type than `cfg` gives.
    """
    left = {name: np.asarray(array) for name, array in arrays.items()}

    def take(path, wanted) -> jnp.ndarray:
        ours = path_name(path)
        name = torch_name(ours)
        if name not in left:
            raise UserError(f"the file has no {name!r}, which variant {cfg.variant!r} needs")
        array = left.pop(name)
        shape = (1, *wanted.shape) if ours in LEADING_ONE else wanted.shape
        _check_shape(name, array, shape[::-1] if ours.endswith("/kernel") else shape)
        if array.dtype.kind != "f":
            raise UserError(f"{name} is of type {array.dtype}: parameters are floating-point numbers")
        if not (np.abs(array) <= np.finfo(wanted.dtype).max).all():
            raise UserError(f"{name} holds numbers that are NaN, infinite or too large: take an earlier file")
        array = array.T if ours.endswith("/kernel") else array
        return jnp.asarray(array.reshape(wanted.shape), wanted.dtype)

    params = jax.tree_util.tree_map_with_path(take, abstract_params(cfg))
    used = {name: array for name, array in arrays.items() if name not in left}
    constants = buffers(used, cfg) if left else {}
    for name, array in sorted(left.items()):
        if name not in constants:
            raise UserError(
                f"the file has {name!r}, which variant {cfg.variant!r} with {cfg.n_layer} layers has not"
            )
        _check_shape(name, array, constants[name].shape)
        if name == PATTERN_SEED and array != cfg.pattern_seed:
            raise UserError(f"the file's patterns are drawn from seed {array}: give --seed={array}")
        # A table from angles in float64 differs by 4e-6.
        if not np.allclose(array, constants[name], rtol=0, atol=1e-4 if name.endswith("rope_cache") else 0):
            raise UserError(
                f"{name} has other values than in variant {cfg.variant!r}: the file is of another model"
            )
    return params


def _check_shape(name: str, array: np.ndarray, shape: tuple):
    if array.shape != shape:
        raise UserError(
            f"{name} has shape {array.shape} where the config gives {shape}: set --config.model.n_embd, "
            "n_head, block_size, seq_len, options and the vocabulary to the file's"
        )


def to_torch(params) -> dict:
    """Converts our parameters to `{course name: float32 NumPy array}`, the inverse of `from_torch`."""
    arrays = {}
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        ours, array = path_name(path), np.asarray(array, np.float32)
        if ours in LEADING_ONE:
            array = array[None]
        arrays[torch_name(ours)] = array.T if ours.endswith("/kernel") else array
    return arrays


def buffers(arrays: dict, cfg: ModelConfig) -> dict:
    """Returns the constants in the course's files: `{course name: array}` of masks and RoPE tables.

    For a variant that draws patterns (the course has none), they include the pattern seed.

    Args:
      arrays: the parameters by the course's names.
      cfg: the model.
    """
    constants = {PATTERN_SEED: np.array(cfg.pattern_seed)} if draws_patterns(cfg) else {}
    for name in arrays:
        if not name.endswith("attn.value.weight"):
            continue
        attention = name.removesuffix("value.weight")
        on_latents = LATENTS in arrays and attention.startswith("blocks")
        size = arrays[LATENTS].shape[1] if on_latents else cfg.block_size
        constants[f"{attention}mask"] = np.tril(np.ones((1, 1, size, size), np.float32))
        if "pos_emb" not in arrays:
            torch = _torch()  # in float32, as in the course; float64 differs by 4e-6 at position 127
            rate_P = 1 / BASE ** (torch.arange(0, cfg.head_dim, 2).float() / cfg.head_dim)
            angle_TP = torch.outer(torch.arange(cfg.block_size).float(), rate_P)
            cos_sin_TP2 = torch.stack([angle_TP.cos(), angle_TP.sin()], dim=-1)
            constants[f"{attention}rope_cache"] = cos_sin_TP2.numpy()
    return constants


def load_torch_params(path: str, cfg: ModelConfig) -> dict:
    """Returns the parameters in a course `.params` file, a state dict that `torch.save` wrote.

    Reading executes no code from the file (`weights_only`), and refuses a file that is too large for `cfg`
    before it unpacks it. Names may begin with "module.", as those of a `DataParallel` model do.

    Raises:
      UserError: PyTorch is not installed, there is no such file, it is no state dict, or its parameters do
        not fit `cfg`.
    """
    torch = _torch()
    _check_size(path, cfg)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it is of type {type(state).__name__}")
        for name, tensor in state.items():
            if not isinstance(name, str):
                raise TypeError(f"one of its names is of type {type(name).__name__} and not a string")
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{name!r} is of type {type(tensor).__name__} and not a tensor")
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
    except FileNotFoundError:
        raise UserError(f"no file {path!r}") from None
    except Exception as error:  # torch raises many kinds, some with pages of text
        raise UserError(
            f"{path!r} is not a PyTorch state dict (save one with torch.save(model.state_dict(), path)): "
            f"{first_line(error)}"
        ) from None
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return from_torch(arrays, cfg)


def _check_size(path: str, cfg: ModelConfig):
    """Raises a UserError if a file's unpacked arrays have more than twice the bytes that `cfg` needs."""
    if not zipfile.is_zipfile(path):  # an older file, whose arrays are not packed
        return
    parameters = count_params(cfg)
    masks = cfg.n_layer * cfg.block_size**2
    most = 2 * 4 * (parameters + masks) + 1_000_000
    try:
        with zipfile.ZipFile(path) as file:
            there = sum(entry.file_size for entry in file.infolist())
    except zipfile.BadZipFile:  # damaged, as reading it will say
        return
    if there > most:
        raise UserError(
            f"{path} holds {there / 1e6:,.1f} MB of arrays, and the config asks for {most / 2e6:,.1f} MB: "
            "set --config.model.n_embd, n_layer, block_size and the vocabulary to the file's"
        )


def save_torch_params(path: str, params, cfg: ModelConfig):
    """Writes a file for the course's `model.load_state_dict(torch.load(path))`, including its constants."""
    torch = _torch()
    arrays = to_torch(params)
    state = {name: torch.tensor(array) for name, array in (arrays | buffers(arrays, cfg)).items()}
    try:
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {first_line(error)}") from None


def _torch():
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch parameter files need PyTorch: pip install torch") from None
    return torch

"""Writes and reads a run as one safetensors file: parameters, vocabulary and config.

    save_safetensors(path, params, run)
    run, params = load_safetensors(path)

Tensors are float32 and have the paths of our parameters as names, such as "stack/blocks_0/attn/query/kernel".
The metadata holds `format` ("kgpt_jax"), `version` (of the format, "1"), `config` and `facts` (JSON), and
`vocab` (its characters). Only this file needs the package safetensors.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import Config, UserError, first_line, from_dict, to_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.devices import path_name
from kgpt_jax.model.gpt import abstract_params, count_params
from kgpt_jax.store.atomic import replacing
from kgpt_jax.store.folder import FACT_TYPES, JSON_ERRORS, Run, with_current_names

FORMAT, VERSION = "kgpt_jax", "1"
# What the run learned, and from which data and teachers.
EXPORTED_FACTS = ("learned", "taught_by", "corpus_digest", "most_frequent_answer")


def save_safetensors(path: str, params, run: Run):
    """Writes the parameters of one model to a file.

    Args:
      path: the file; the caller has checked that it may be replaced.
      params: the model's parameters.
      run: the run that they belong to: its config, vocabulary and facts are stored too.

    Raises:
      UserError: safetensors is not installed, or the file cannot be written.
    """
    library = _library()
    arrays = {
        path_name(place): np.ascontiguousarray(np.asarray(leaf, np.float32))
        for place, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(to_dict(dataclasses.replace(run.config, n_seeds=1))),
        "vocab": run.vocab.characters,
        "facts": json.dumps({name: run.facts[name] for name in EXPORTED_FACTS if name in run.facts}),
    }
    try:
        with replacing(Path(path)) as partial:
            library.numpy.save_file(arrays, partial, metadata)
    except (OSError, library.SafetensorError) as error:
        raise UserError(f"cannot write {path}: {first_line(error)}") from None


def load_safetensors(path: str) -> tuple[Run, Any]:
    """Returns the run that a file describes, and its parameters. The run's `folder` is the file's path.

    The sizes of tensors are compared with the config before any tensor is read.

    Raises:
      UserError: safetensors is not installed, there is no such file, it is damaged, `save_safetensors` did
        not write it, or its tensors do not match its config.
    """
    library = _library()
    try:
        with library.safe_open(path, framework="numpy") as file:
            run = _described(path, file.metadata() or {})
            return run, _params(path, file, run.config)
    except FileNotFoundError:
        raise UserError(f"no file {path!r}") from None
    except (OSError, library.SafetensorError) as error:
        raise UserError(f"{path} is not a valid safetensors file: {first_line(error)}") from None


def _described(path: str, metadata: dict[str, str]) -> Run:
    """Returns the run that a file's metadata describes."""
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by --mode=export: its metadata lacks format={FORMAT}")
    if metadata.get("version") != VERSION:
        raise UserError(
            f"{path} has version {metadata.get('version')!r} of the format, and this program reads "
            f"{VERSION!r}"
        )
    if missing := [name for name in ("config", "vocab", "facts") if name not in metadata]:
        raise UserError(f"{path} lacks {', '.join(missing)} in its metadata: export the run again")
    try:
        config = from_dict(with_current_names(json.loads(metadata["config"])))
        vocab = Vocab(metadata["vocab"])
        facts = json.loads(metadata["facts"])
        for name in facts.keys() & FACT_TYPES.keys():
            if not isinstance(facts[name], FACT_TYPES[name]):
                raise ValueError(f"facts have {name} {facts[name]!r}")
        facts = {name: facts[name] for name in EXPORTED_FACTS if name in facts}
    except JSON_ERRORS as error:
        raise UserError(f"{path} has damaged metadata: {first_line(error)}") from None
    if len(vocab) != config.model.vocab_size or config.n_seeds != 1:
        raise UserError(
            f"{path} has a vocabulary of {len(vocab)} symbols and a config for {config.n_seeds} models of "
            f"{config.model.vocab_size} symbols: these do not belong together"
        )
    return Run(Path(path), config, vocab, facts | {"stage": "import", "started_from": path})


def _params(path: str, file, config: Config) -> Any:
    shape_of = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    there, asked = sum(map(math.prod, shape_of.values())), count_params(config.model)
    if there != asked:
        raise UserError(f"{path} holds {there:,} parameters, and its config asks for {asked:,}")

    def take(place, wanted) -> jax.Array:
        name = path_name(place)
        if name not in shape_of:
            raise UserError(f"{path} has no {name!r}, which variant {config.model.variant!r} needs")
        if shape_of[name] != wanted.shape:
            raise UserError(
                f"{path}: {name} has shape {shape_of[name]}, and its config asks for {wanted.shape}"
            )
        if (kind := file.get_slice(name).get_dtype()) != "F32":
            raise UserError(f"{path}: {name} is of type {kind}: parameters are of type F32")
        array = file.get_tensor(name)
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds numbers that are NaN or infinite: take an earlier file")
        return jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(take, abstract_params(config.model))


def _library():
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise UserError("safetensors files need the package safetensors: pip install safetensors") from None
    return safetensors

"""Parameters that several devices share: `train_on_eight`, in a process of its own, prints what came out."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractMesh

from kgpt_jax import devices
from kgpt_jax.answer.predict import predict
from kgpt_jax.config import UserError, override
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.data.objectives import Material, span_corruption
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.devices import make_mesh, shardings
from kgpt_jax.model.gpt import GPT, abstract_params
from kgpt_jax.model.variants import VARIANTS
from kgpt_jax.store.compatible import open_run, with_vocab
from kgpt_jax.store.params import load_params
from kgpt_jax.train import loop
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests import tiny

DOCUMENTS = [f"Ann Bo number {i} was born in {place}." for i in range(8) for place in ("Rome", "Oslo")]
SIZES = (1, 4)
AXES = ("data", "model")


def train_on_eight():
    found = {}
    for model_devices in SIZES:
        vocab = Vocab.of("".join(DOCUMENTS) + "abcdefghijklm\n")
        config = with_vocab(
            tiny.config(epochs=2, batch_size=8, microbatches=1, muon_learning_rate=0.02), vocab
        )
        config = override(config, {"model_devices": model_devices, "model.n_embd": 64, "model.n_layer": 1})
        with tempfile.TemporaryDirectory() as folder:
            run = open_run(Path(folder), config, vocab, {"stage": "pretrain"})
            objective = span_corruption(Material(DOCUMENTS, []), vocab, config.model)
            loop.train(run, config.pretrain, Chunks.of(objective, len(DOCUMENTS)))
            losses = [
                json.loads(line)["loss"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()
            ]
            params = load_params(run, model_devices=model_devices)
        answers, _ = predict(GPT(config.model), params, vocab, DOCUMENTS)
        tx, mesh = make_optimizer(config.pretrain), make_mesh(8, model_devices)
        drawn = init_state(GPT(config.model), tx, jax.random.key(0), mesh=mesh)
        loaded = init_state(GPT(config.model), tx, jax.random.key(0), params, mesh=mesh)
        found[model_devices] = {
            "mesh": dict(mesh.shape),
            "losses": losses,
            "placed": is_placed(drawn, mesh) and is_placed(loaded, mesh),
            "bytes": largest_share((drawn.params, drawn.opt_state)),
            "bytes of loaded": largest_share((loaded.params, loaded.opt_state)),
            "bytes to answer": (largest_share(params), largest_share(drawn.params)),
            "all": sum(leaf.nbytes for leaf in jax.tree.leaves((drawn.params, drawn.opt_state))),
            "answers": answers,
        }
    print(json.dumps(found))


def is_placed(tree, mesh) -> bool:
    """Returns whether each leaf is where the rules place it."""
    placed = jax.tree.map(
        lambda leaf, place: leaf.sharding.is_equivalent_to(place, leaf.ndim), tree, shardings(tree, mesh)
    )
    return all(jax.tree.leaves(placed))


def largest_share(tree) -> int:
    """Returns the bytes on the device that holds most."""
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
    return max(
        sum(shard.data.nbytes for shard in shards if shard.device == device) for device in jax.devices()
    )


@pytest.fixture(scope="module")
def eight():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    script = [sys.executable, "-c", "from tests.test_devices import train_on_eight; train_on_eight()"]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {int(size): row for size, row in json.loads(done.stdout.splitlines()[-1]).items()}


def test_shared_parameters_give_the_same_losses(eight):
    for size in SIZES:
        assert eight[size]["mesh"] == {"data": 8 // size, "model": size}
        assert len(eight[size]["losses"]) == 4
        assert eight[size]["losses"] == pytest.approx(eight[1]["losses"], rel=1e-5)


def test_each_device_holds_its_share_of_the_large_parameters(eight):
    assert eight[1]["bytes"] == eight[1]["all"]
    # Positions 64 x 64, the block's norms 4 x 64 and biases of what is cut by rows 2 x 64, last norm 2 x 64:
    # each is a float32 on every device, beside its two moments under Adam.
    copied = 3 * 4 * (64 * 64 + (4 * 64 + 2 * 64) + 2 * 64)
    for size in SIZES[1:]:
        expected = copied + (eight[1]["all"] - copied) / size
        assert eight[size]["bytes"] == pytest.approx(expected, abs=32)  # and some counters


def test_a_loaded_model_is_shared_from_the_beginning(eight):
    """No device holds all of it, neither for more training nor to answer; the answers are the same."""
    for size in SIZES:
        assert eight[size]["placed"]
        assert eight[size]["bytes of loaded"] == eight[size]["bytes"]
        assert len(set(eight[size]["bytes to answer"])) == 1
        assert eight[size]["answers"] == eight[1]["answers"] and any(eight[1]["answers"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_linear_layer_is_split_and_nothing_else_of_the_stack(variant):
    params = abstract_params(tiny.model_config(variant))
    splits = jax.tree.map(lambda place: tuple(place.spec), shardings(params, AbstractMesh((1, 2), AXES)))

    def check(name, values, spec):
        if "kernel" in values:
            by_rows = name in ("proj", "down")
            assert spec["kernel"] == (("model", None) if by_rows else (None, "model")), name
            assert spec["bias"] == ((None,) if by_rows else ("model",)), name
            return
        for key, value in values.items():
            if isinstance(value, dict):
                check(key, value, spec[key])
            else:
                assert not any(spec[key]), (name, key)

    check("stack", params["stack"], splits["stack"])


def test_rules_name_the_axis_that_is_shared():
    two = AbstractMesh((1, 2), AXES)
    made = jax.tree.map(lambda place: tuple(place.spec), shardings(abstract_params(tiny.MODEL), two))
    block = made["stack"]["blocks_0"]
    assert block["mlp"]["up"]["kernel"] == (None, "model")
    assert block["mlp"]["down"]["kernel"] == ("model", None)
    assert block["attn"]["query"]["kernel"] == (None, "model")
    assert block["attn"]["readout"]["proj"]["kernel"] == ("model", None)
    assert block["ln1"]["scale"] == (None,)
    assert made["tok_emb"]["embedding"] == (None, None)  # 13 symbols: two devices cannot share them


def test_a_containers_limit_is_the_memory_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="cpu")])
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "CONTAINERS_LIMIT", limit)
    whole = devices.memory()
    limit.write_text("1000000\n")
    assert devices.memory() == 1_000_000 < whole
    limit.write_text("max\n")
    assert devices.memory() == whole


def test_a_gpus_memory_is_what_it_has_for_jax(monkeypatch):
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA T4", memory_stats=lambda: {"bytes_limit": 12e9})
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    devices.check_memory("an update", 11e9, "lower batch_size")
    with pytest.raises(
        UserError, match="or more, and JAX may use 12.0 GB on this NVIDIA T4: lower batch_size"
    ):
        devices.check_memory("an update", 13e9, "lower batch_size")
    with monkeypatch.context() as changed:
        changed.setattr(gpu, "memory_stats", lambda: None)  # as of a device that does not tell
        devices.check_memory("an update", 13e9, "lower batch_size")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    devices.check_memory("an update", 13e9, "lower batch_size")

"""Malicious files: their code is not executed, and their sizes are checked before arrays are allocated."""

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile

import jax
import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run, with_vocab
from kgpt_jax.store.digests import SEAL, damage, seal
from kgpt_jax.store.folder import read_run
from kgpt_jax.store.params import load_params
from kgpt_jax.store.torch_params import load_torch_params, save_torch_params
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests import tiny

FILES = ["run.json", "vocab.json", "config.json"]


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_params_file_executes_nothing(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    torch.save(
        {"a": Evil(f"touch {tmp_path}/done")}, tmp_path / "evil.params", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match="is not a PyTorch state dict"):
        load_torch_params(str(tmp_path / "evil.params"), tiny.MODEL)
    assert not (tmp_path / "done").exists()
    torch.load(tmp_path / "evil.params", weights_only=False)  # what it would have done
    assert (tmp_path / "done").exists()


def test_a_params_file_that_unpacks_to_much_is_not_unpacked(tmp_path):
    pytest.importorskip("torch")
    params = jax.tree.map(lambda leaf: leaf * 0, tiny.make("vanilla")[1])
    good, bomb = tmp_path / "good.params", tmp_path / "bomb.params"
    save_torch_params(str(good), params, tiny.MODEL)
    load_torch_params(str(good), tiny.MODEL)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            large = b"\0" * 50_000_000 if entry.filename.endswith("data/0") else source.read(entry)
            target.writestr(entry.filename, large)
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"holds 50\.\d MB of arrays, and the config asks for 0\.5 MB"):
        load_torch_params(str(bomb), tiny.MODEL)


def course_file(variant, path):
    """Writes a course file; returns its content and its config."""
    import torch

    cfg = tiny.model_config(variant)
    save_torch_params(str(path), tiny.make(variant)[1], cfg)
    return torch.load(path, weights_only=True), cfg


@pytest.mark.parametrize(
    "variant, name, change, complaint",
    [
        ("vanilla", 3, lambda _: 3, "its names is of type int and not a string"),
        ("vanilla", "epoch", lambda _: 3, "'epoch' is of type int and not a tensor"),
        ("vanilla", "pos_emb", lambda a: a[:0], r"shape \(0, 16, 8\) where the config gives \(1, 16, 8\)"),
        ("vanilla", "pos_emb", lambda a: a.repeat(5, 1, 1), r"pos_emb has shape \(5, 16, 8\)"),
        ("perceiver", "down_block.C", lambda a: a.repeat(5, 1, 1), r"down_block.C has shape \(5, 6, 8\)"),
        ("vanilla", "head.weight", lambda a: a.T, r"shape \(8, 13\) where the config gives \(13, 8\)"),
        ("vanilla", "head.weight", lambda a: a / 0 * 0, "head.weight holds numbers that are NaN, infinite"),
        ("vanilla", "head.weight", lambda a: a / 0, "head.weight holds numbers that are NaN, infinite"),
        ("vanilla", "head.weight", lambda a: a.double() * 1e300, "head.weight holds .* too large"),
        ("vanilla", "head.weight", lambda a: a + 0j, "head.weight is of type complex64"),
        ("vanilla", "head.weight", lambda a: a.long(), "head.weight is of type int64"),
        ("vanilla", "blocks.1.attn.mask", lambda a: a[..., :9, :9], r"mask has shape \(1, 1, 9, 9\)"),
        (
            "vanilla",
            "blocks.1.attn.mask",
            lambda a: a * 0 + 1,
            "mask has other values than in variant 'vanil",
        ),
        ("vanilla", "blocks.2.attn.mask", lambda _: None, "the file has 'blocks.2.attn.mask', which"),
        ("vanilla", "blocks.0.attn.rope_cache", lambda _: None, "has 'blocks.0.attn.rope_cache', which"),
        ("rope", "blocks.1.attn.rope_cache", lambda a: a.flip(-1), "rope_cache has other values than in"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_params_file_with_foreign_content_is_refused(tmp_path, variant, name, change, complaint):
    torch, path = pytest.importorskip("torch"), tmp_path / "model.params"
    state, cfg = course_file(variant, path)
    changed = change(state.get(name))
    state[name] = state["blocks.0.attn.mask"] if changed is None else changed
    torch.save(state, path)
    with pytest.raises(UserError, match=complaint) as raised:
        load_torch_params(str(path), cfg)
    assert "\n" not in str(raised.value)


def test_a_params_file_may_be_of_a_parallel_model_and_is_no_list(tmp_path):
    torch, path = pytest.importorskip("torch"), tmp_path / "model.params"
    state, cfg = course_file("rope", path)
    plain = load_torch_params(str(path), cfg)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), plain, load_torch_params(str(path), cfg)))
    torch.save([state], path)
    with pytest.raises(UserError, match="not a PyTorch state dict .*: it is of type list"):
        load_torch_params(str(path), cfg)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    vocab = Vocab.of("abcdefgh")
    folder = tmp_path_factory.mktemp("made") / "run"
    run = open_run(folder, with_vocab(tiny.config(), vocab), vocab, {"stage": "pretrain"})
    state = init_state(GPT(run.config.model), make_optimizer(run.config.pretrain), jax.random.key(0))
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state._replace(step=state.step + 3), seconds=1.0, loss=2.0)
    return run


@pytest.fixture
def run(made, tmp_path):
    """Returns a copy of a run for a test to damage."""
    shutil.copytree(made.folder, tmp_path / "run")
    return dataclasses.replace(made, folder=tmp_path / "run")


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"n_layer": 10**9}, "model.n_layer is 1000000000: give 1 to 1,000"),
        ({"n_embd": 10**9}, "model.n_embd is 1000000000: give 1 to 1,000,000"),
        ({"n_embd": 10**6, "n_head": 1}, r"needs 9\d,\d{3}.\d GB of memory or more, and .* (has|use) "),
        ({"n_embd": "256"}, "model.n_embd is '256': expected int"),
        ({"n_embd": 16}, "checkpoints/3 cannot be read"),
    ],
)
def test_sizes_are_looked_at_before_arrays_are_made(run, changes, complaint):
    config = json.loads((run.folder / "config.json").read_text())
    config["model"] |= changes
    (run.folder / "config.json").write_text(json.dumps(config))
    seal(run.folder, FILES)  # as one who means harm would
    with pytest.raises(UserError, match=complaint):
        load_params(read_run(run.folder))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "null", '{"characters": 3, "stage": 3}', "\0", '{"model": [1]}']
)
def test_json_of_another_kind_is_one_clear_error(run, name, content):
    (run.folder / name).write_text(content)
    seal(run.folder, FILES)
    with pytest.raises(UserError) as raised:
        read_run(run.folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "checkpoints/../../outside"])
def test_digests_name_no_file_outside_of_their_folder(run, name):
    (run.folder.parent / "outside").write_text("secret")
    lines = f"{hashlib.sha256(b'secret').hexdigest()}  {name}\n"
    (run.folder / SEAL).write_text(lines + f"# {hashlib.sha256(lines.encode()).hexdigest()}")
    assert damage(run.folder) == "SHA256SUMS names a file outside of the folder"

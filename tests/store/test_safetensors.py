"""Safetensors files: there and back, and files that are damaged or mean harm."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kgpt_jax.config import UserError
from kgpt_jax.store.params import load_params
from kgpt_jax.store.safetensors_params import load_safetensors, save_safetensors
from kgpt_jax.store.torch_params import save_torch_params
from tests import runs
from tests.commands import refused, run

library = pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, its parameters, and the file that holds both."""
    folder = tmp_path_factory.mktemp("run")
    stored = runs.saved(folder / "run")
    stored.facts["taught_by"] = ["the open-book reader"]
    params, path = load_params(stored), folder / "run.safetensors"
    save_safetensors(str(path), params, stored)
    return stored, params, path


def test_a_run_comes_back_as_it_was(exported):
    stored, params, path = exported
    again, read = load_safetensors(str(path))
    assert again.config == stored.config and again.vocab == stored.vocab
    assert again.facts["most_frequent_answer"] == "Rome" and again.facts["learned"] == ""
    assert again.facts["taught_by"] == ["the open-book reader"]
    assert jax.tree.structure(read) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), read, params))


def test_modes_write_and_read_it_without_a_corpus(exported, tmp_path):
    stored, _, _ = exported
    file = f"{tmp_path}/model.safetensors"
    run("--mode=export", f"--reading_params_path={stored.folder}", f"--writing_params_path={file}")
    (tmp_path / "imported").mkdir()
    leftover = '{"step": 1, "loss": 2.0}\n'  # of a training that was killed before its first checkpoint
    (tmp_path / "imported" / "metrics.jsonl").write_text(leftover)
    (tmp_path / "imported" / "run.json").write_text('{"stage": "pretrain"}')
    out = run("--mode=import", f"--reading_params_path={file}", f"--writing_params_path={tmp_path}/imported")
    assert (tmp_path / "imported" / "set_aside" / "run_1" / "metrics.jsonl").read_text() == leftover
    assert not (tmp_path / "imported" / "metrics.jsonl").exists()
    assert f"{file} is now the run {tmp_path}/imported" in out
    answers = []
    for name, folder in (("a", stored.folder), ("b", f"{tmp_path}/imported")):
        run("--mode=evaluate", f"--reading_params_path={folder}", f"--outputs_path={tmp_path}/{name}.txt")
        answers.append((tmp_path / f"{name}.txt").read_text())
    assert answers[0] == answers[1]
    assert "model.n_layer 1, and 3 is asked for" in refused(
        "--mode=import",
        f"--reading_params_path={file}",
        f"--writing_params_path={tmp_path}/other",
        "--config.model.n_layer=3",
    )
    assert "holds a run already" in refused(
        "--mode=import", f"--reading_params_path={file}", f"--writing_params_path={tmp_path}/imported"
    )
    (tmp_path / "mine.safetensors").write_text("mine")
    assert "did not write what it holds" in refused(
        "--mode=export",
        f"--reading_params_path={stored.folder}",
        f"--writing_params_path={tmp_path}/mine.safetensors",
    )


@pytest.mark.parametrize("save", [save_safetensors, save_torch_params])
def test_an_export_that_fails_leaves_the_older_file(exported, tmp_path, monkeypatch, save):
    def full(*_):
        raise OSError(28, "No space left on device")

    stored, params, _ = exported
    if save is save_torch_params:
        pytest.importorskip("torch")
    path = tmp_path / "model"
    path.write_text("older")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=f"cannot write {path}: .*No space left on device"):
        save(str(path), params, stored if save is save_safetensors else stored.config.model)
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def changed(path, new, change_arrays=None, **metadata):
    """Writes a copy of a file with other arrays or metadata; None leaves an entry out."""
    with library.safe_open(path, framework="numpy") as file:
        arrays, entries = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    if change_arrays:
        change_arrays(arrays)
    entries = {name: value for name, value in (entries | metadata).items() if value is not None}
    library.save_file(arrays, new, entries)


HEAD = "head/kernel"


@pytest.mark.parametrize(
    "change, complaint",
    [
        (
            lambda a: a.update({HEAD: a[HEAD].T.copy()}),
            rf"{HEAD} has shape \(\d+, 16\), and its config asks for \(16, ",
        ),
        (lambda a: a.update({HEAD: a[HEAD][:-1]}), "holds [0-9,]+ parameters, and its config asks for"),
        (lambda a: a.pop(HEAD), "holds [0-9,]+ parameters, and its config asks for"),
        (lambda a: a.update(more=np.zeros(3, np.float32)), "holds [0-9,]+ parameters, and its config asks"),
        (lambda a: a.update({"other": a.pop(HEAD)}), f"has no '{HEAD}', which variant 'vanilla' needs"),
        (lambda a: a.update({HEAD: a[HEAD].astype(np.float16)}), f"{HEAD} is of type F16: parameters are of"),
        (lambda a: a.update({HEAD: a[HEAD].astype(np.int64)}), f"{HEAD} is of type I64"),
        (lambda a: a.update({HEAD: a[HEAD] * np.nan}), f"{HEAD} holds numbers that are NaN or infinite"),
        (lambda a: a.update({HEAD: a[HEAD] * np.float32(np.inf)}), f"{HEAD} holds numbers that are NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_foreign_tensors_are_refused(exported, tmp_path, change, complaint):
    changed(exported[2], tmp_path / "x.safetensors", change)
    with pytest.raises(UserError, match=complaint) as raised:
        load_safetensors(str(tmp_path / "x.safetensors"))
    assert "\n" not in str(raised.value)


def config_with(stored, **model):
    tree = dataclasses.asdict(stored.config)
    tree["model"] |= model
    return json.dumps(tree)


@pytest.mark.parametrize(
    "metadata, complaint",
    [
        (lambda run: {"format": "pt"}, "was not written by --mode=export"),
        (lambda run: {"format": None}, "was not written by --mode=export"),
        (lambda run: {"version": "2"}, "has version '2' of the format, and this program reads '1'"),
        (lambda run: {"vocab": None, "facts": None}, "lacks vocab, facts in its metadata"),
        (lambda run: {"config": "{"}, "has damaged metadata"),
        (lambda run: {"config": "[" * 100_000}, "has damaged metadata"),
        (lambda run: {"config": "[]"}, "has damaged metadata"),
        (lambda run: {"facts": "[]"}, "has damaged metadata"),
        (lambda run: {"facts": '{"learned": 3}'}, "has damaged metadata: facts have learned 3"),
        (lambda run: {"vocab": "abc"}, "has damaged metadata: a vocabulary is"),
        (lambda run: {"vocab": run.vocab.characters[:-1]}, "these do not belong together"),
        (lambda run: {"config": config_with(run, n_layer=1000)}, "parameters, and its config asks for"),
        (lambda run: {"config": config_with(run, n_embd=10**6)}, "parameters, and its config asks for"),
        (lambda run: {"config": config_with(run, n_layer=10**9)}, "model.n_layer is 1000000000: give 1 to"),
        (lambda run: {"config": config_with(run, variant="gated")}, "unknown variant 'gated'"),
    ],
)
def test_foreign_metadata_is_refused(exported, tmp_path, metadata, complaint):
    stored, _, path = exported
    changed(path, tmp_path / "x.safetensors", **metadata(stored))
    with pytest.raises(UserError, match=complaint) as raised:
        load_safetensors(str(tmp_path / "x.safetensors"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_refused(exported, tmp_path, length):
    (tmp_path / "x.safetensors").write_bytes(exported[2].read_bytes()[:length])
    with pytest.raises(UserError, match="x.safetensors is not a valid safetensors file") as raised:
        load_safetensors(str(tmp_path / "x.safetensors"))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no file .*gone.safetensors"):
        load_safetensors(str(tmp_path / "gone.safetensors"))

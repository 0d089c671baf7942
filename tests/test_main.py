"""The command line prints help, and one line for each error in flags."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from kgpt_jax.modes import MODES, command, load, pretrain
from kgpt_jax.modes.command import parse
from tests import runs
from tests.commands import CHECKOUT, TINY, refused, run


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (
            ["--mode=pretain"],
            "is no mode: did you mean pretrain? choose from pretrain, finetune, ",
        ),
        (["--mode=pretrain", "--variant=gated"], "unknown variant 'gated'; choose from vanilla, rope, "),
        (
            ["--mode=pretrain", "--sed=1"],
            "unknown flag --sed: did you mean --seed? choose from ",
        ),
        (["--mode=pretrain", "--beams=2"], "--mode=pretrain has no flag --beams, which belongs to evaluate"),
        (["--mode=pretrain", "--config.pretrain.epoch=1"], "did you mean --config.pretrain.epochs?"),
        (["--mode=pretrain", "--config.pretrain.epochs=many"], "config.pretrain.epochs=many"),
        (["--mode=pretrain", "--config=configs/curse.py"], "course_2021, course_2024"),
        (["--mode=pretrain", "--pretrain_corpus_path=nowhere.txt"], "cannot read nowhere.txt"),
        (
            ["--mode=pretrain", "--reading_params_path=x"],
            "which belongs to finetune, evaluate, ",
        ),
        (
            ["--mode=pretrain", "--seed=1", "--config.seed=2"],
            "--seed and --config.seed differ: give one",
        ),
        (["--mode=pretrain", "--config.pretrain.epochs=1" + "0" * 23], "give 1 to 10,000,000"),
        (
            ["--mode=pretrain", "--config.data.biographies.copies=1000000000"],
            "give at most 1,000,000",
        ),
        (["--mode=evaluate", "--variant=/x"], "there is no run in"),
        (["--mode=ask", "--question=Where was R\udcffuth born?"], "the command line is not text in UTF-8"),
        (["--mode=pretrain", f"--workdir={'x' * 300}"], "File name too long"),
        (["--mode=compare", "--seeds=1,01"], "--seeds=1,01: give each number once"),
        (["--mode=ablate", "--seed=7"], "--mode=ablate takes its seeds from --seeds: leave out --seed"),
        (
            ["--mode=compare", "--config.data.biographies.seed=7"],
            "takes its seeds from --seeds: leave out --config.data.biographies.seed",
        ),
        (["--mode=copies", "--objective=whole_line"], "--mode=copies has its own objectives: leave out"),
        (
            ["--mode=copies", "--config.pretrain.objective=whole_line"],
            "leave out --config.pretrain.objective",
        ),
        (["--mode=all", "--config.scratch.objective=poem"], "unknown objective 'poem'"),
        (["--mode=pretrain", "wiki.txt"], "unexpected argument 'wiki.txt'"),
        (["--mode=pretrain", "--nostart_anew=true"], "does not take an argument"),
        (["--mode=pretrain", "--mode=finetune"], "--mode is given as pretrain and as finetune"),
        (["finetune", "vanilla", "wiki.txt"], "finetune needs --writing_params_path, as in the course"),
        ([], "--mode is missing: choose from pretrain, "),
    ],
)
def test_wrong_flags_end_with_one_line_and_status_2(flags, complaint):
    assert complaint in run(*flags, status=2)


@pytest.mark.parametrize(
    "flag",
    """workdir reading_params_path writing_params_path voters student_params_path config
    pretrain_corpus_path config.data.finetune_corpus_path eval_corpus_path""".split(),
)
def test_an_address_is_no_path(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mode = "pretrain" if "corpus" in flag else "distill"
    complaint = refused(f"--mode={mode}", *TINY, f"--{flag}=gs://bucket/runs")
    assert f"{flag.removeprefix('config.')} is 'gs://bucket/runs', which is no local path: copy" in complaint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error, why",
    [(AssertionError(), ""), (RuntimeError("out of memory\nat 0x1"), " (out of memory)")],
)
def test_a_platform_that_is_not_there_is_named(monkeypatch, tmp_path, error, why):
    def without_cuda():
        raise error

    monkeypatch.setattr(jax, "devices", without_cuda)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    complaint = refused("--mode=pretrain", f"--workdir={tmp_path}", *TINY)
    assert f'JAX finds no cuda here{why}: on such a machine, pip install -U "jax[cuda13]"' in complaint


def test_only_a_word_with_dashes_asks_for_help():
    assert isinstance(parse(["--mode=pretrain", "-help"]), str)
    assert parse(["--mode=sample", "--prompt", "help", "--temperature=0"]).flags.prompt == "help"


def test_training_does_not_move_away_the_run_that_it_starts_from(tmp_path):
    folder = runs.saved(tmp_path / "run").folder
    paths = [f"--reading_params_path={folder}", f"--writing_params_path={folder}"]
    assert "--start_anew would move away" in refused("--mode=finetune", *paths, "--start_anew")
    assert (folder / "config.json").exists()


def test_a_run_that_starts_anew_keeps_the_old_one_aside(tmp_path):
    folder = runs.saved(tmp_path / "vanilla" / "pretrain").folder
    (folder / "tensorboard").mkdir()
    command = ["--mode=pretrain", "--start_anew", f"--workdir={tmp_path}", *TINY]
    mistakes = "pretrain_corpus_path=wikki.txt objective=guess config.model.n_embd=1000000"
    for mistake in [*mistakes.split(), "config.model_devices=1000"]:
        refused(*command, f"--{mistake}")
        assert (folder / "checkpoints").exists() and not (folder / "set_aside").exists()
    run(*command, "--config.pretrain.epochs=1")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) != []
    aside = {path.name for path in (folder / "set_aside" / "run_1").iterdir()}
    assert {"config.json", "checkpoints", "tensorboard"} <= aside


def test_an_evaluation_does_not_make_a_run_the_newest(tmp_path):
    for number, name in enumerate(("old", "new")):
        folder = runs.saved(tmp_path / name / "finetune").folder
        for file in folder.glob("*.json"):
            os.utime(file, (number, number))
    (tmp_path / "old" / "finetune" / "results.json").write_text("{}")
    start = parse(["--mode=ask", f"--workdir={tmp_path}"]).start("finetune")
    assert start.folder == tmp_path / "new" / "finetune"


def test_help_lists_modes_and_flags_without_jax():
    modes = run("--help")
    assert all(f"  {mode} " in modes for mode in MODES)
    code = "import sys, kgpt_jax.main as it; it.main(['--mode=sample', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    help, imported = done.stdout.removesuffix("\n").rsplit("\n", 1)
    assert "kgpt_jax.modes.sample" in imported.split()
    assert not {"jax", "numpy", "kgpt_jax.modes.evaluate"} & set(imported.split())
    own, common, fields = (help.index(part) for part in ("--prompt", "--workdir", "model.n_layer=2"))
    assert own < common < fields and "--beams" not in help
    # The values are those of the recipe in force.
    assert "model.n_layer=4" in run("--mode=sample", "--help", "--config=course_2024")
    assert "--config.model.n_layer=2" in run("--mode=sample", "--helpfull")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_file(mode):
    file = load(mode)
    assert callable(file.run) and f"--mode={mode}" in file.__doc__
    assert {"--mode", "--workdir", "--config.seed"} <= {f"--{flag}" for flag in command.defined(mode)}


def test_a_command_that_nobody_reads_ends_quietly():
    command = [sys.executable, "-m", "kgpt_jax.main", "--mode=show", *TINY]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_an_output_that_lacks_a_letter_takes_one_line():
    command = [sys.executable, "-m", "kgpt_jax.main", "--mode=show", *TINY]
    latin_1 = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=latin_1, capture_output=True)
    complaint = rb"error: '\u2047' cannot be written in latin-1: set PYTHONIOENCODING=utf-8"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == complaint


def test_a_loop_of_links_takes_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "mine.toml").touch()
    paths = [f"--answers_path={tmp_path}/mine.toml", f"--outputs_path={tmp_path}/loop"]
    assert "loop" in refused("--mode=check", *paths)
    assert "loop" in refused("--mode=pretrain", f"--workdir={tmp_path}/loop")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize(
    "words, complaint",
    [
        ("--mode=show", "No space left on device; a training resumes from its newest checkpoint"),
        ("pretrain vanilla nowhere --writing_params_path=x", "No space left on device; a training resumes"),
        ("--mode=sho", "--mode=sho is no mode: did you mean show"),
    ],
)
def test_a_full_disk_behind_the_output_takes_one_line(words, complaint):
    command = [sys.executable, "-m", "kgpt_jax.main", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=CHECKOUT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {complaint}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--mode=pretrain", "--variant=perceiver", "--bottleneck_dim=128"],
        ["--mode=pretrain", "--variant=perceiver_ar", "--config.model.options=bottleneck_dim=128"],
        ["--mode=compare", "--variants=vanilla,perceiver", "--bottleneck_dim=128"],
    ],
)
def test_more_latents_than_positions_are_refused(flags, tmp_path):
    complaint = refused(*flags, f"--workdir={tmp_path}", *TINY)
    assert "bottleneck_dim 128 is beyond model.seq_len 127: give less" in complaint


def test_a_field_that_is_a_variants_own_option_is_named():
    complaint = refused("--mode=pretrain", "--variant=bigbird", "--config.model.attention_block=4")
    assert "own setting is given as --config.model.options=attention_block=NUMBER" in complaint


def test_an_option_that_no_variant_has_is_refused(tmp_path):
    complaint = refused("--mode=pretrain", "--bottleneck_dim=8", f"--workdir={tmp_path}", *TINY)
    assert "variant 'vanilla' has no option 'bottleneck_dim'; its options: none" in complaint
    complaint = refused("--mode=recall", "--variants=vanilla,rope", "--bottleneck_dim=8")
    assert "none of the variants vanilla, rope has an option 'bottleneck_dim': leave it out" in complaint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBuffers"),
    ],
)
def test_a_lack_of_memory_is_one_line(error, monkeypatch):
    def fails(_):
        raise error

    monkeypatch.setattr(pretrain, "run", fails)
    complaint = refused("--mode=pretrain")
    assert complaint.startswith("error: out of memory (") and "lower the stage's batch_size" in complaint

"""Runs all stages of a tiny model with commands as users type them."""

import json
from pathlib import Path

import pytest

from kgpt_jax.config import BiographiesConfig
from kgpt_jax.data import biographies
from tests.commands import TINY, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of one `--mode=all`, and what it printed."""
    root = tmp_path_factory.mktemp("runs")
    return root, run("--mode=all", "--variant=synthesizer", f"--workdir={root}", *TINY)


def test_all_prints_a_table_and_writes_the_same(whole):
    root, printed = whole
    assert {path.name for path in (root / "synthesizer").iterdir()} == {
        "pretrain",
        "finetune",
        "scratch",
        "evaluate",
        "summary.json",
        ".summary.json.kgpt.json",
    }
    summary = json.loads((root / "synthesizer" / "summary.json").read_text())
    assert [row["name"] for row in summary][1:] == ["finetuned from scratch", "pretrained and finetuned"]
    for row in summary:
        assert set(row) == {"name", "correct", "total", "accuracy", "interval", "seconds"}
        assert row["total"] == 6 and row["accuracy"] == row["correct"] / 6
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
        line = next(line for line in printed.splitlines() if line.startswith(row["name"]))
        assert f"{row['correct']:>8}{row['total']:>6}{row['accuracy']:>10.1%}" in line
    assert f"starting from {root / 'synthesizer' / 'pretrain'}, update 1\n" in printed
    assert printed.count("Correct: ") == 2
    predictions = (root / "synthesizer" / "evaluate" / "predictions.txt").read_text()
    assert len(predictions.split("\n")) == 7


def test_again_says_that_all_is_finished(whole):
    root, _ = whole
    printed = run("--mode=all", "--variant=synthesizer", f"--workdir={root}", *TINY)
    assert printed.count("is finished: ") == 3


def test_a_summary_that_is_not_ours_is_kept(tmp_path):
    (tmp_path / "vanilla").mkdir()
    (tmp_path / "vanilla" / "summary.json").write_text("mine")
    complaint = run("--mode=all", f"--workdir={tmp_path}", *TINY, status=2)
    assert "summary.json exists, and this program did not write what it holds" in complaint
    assert [path.name for path in (tmp_path / "vanilla").iterdir()] == ["summary.json"]


def test_without_a_variant_the_newest_run_goes_on(whole):
    root, _ = whole
    assert f"evaluating {root}/synthesizer/finetune, update 1\n" in run(
        "--mode=evaluate", f"--workdir={root}"
    )


def test_the_courses_commands_as_they_are_typed(tmp_path):
    """Each part of the assignment, on files that --mode=biographies wrote: their documents have no '?'."""
    small = BiographiesConfig(n_train=5, n_dev=4, n_test=3, copies=1)
    wiki, train, dev, test = biographies.write(biographies.generate(small), tmp_path / "data")
    assert "?" not in Path(wiki).read_text()
    tiny = [flag for flag in TINY if "n_layer" in flag or "n_embd" in flag or "n_head" in flag]

    def course(words):
        return words.replace("wiki.txt", wiki).replace("DIR", str(tmp_path)).split()

    pairs = ["--finetune_corpus_path", train]
    scratch = course("finetune vanilla wiki.txt --writing_params_path DIR/vanilla.model.params")
    out = run(*scratch, *pairs, *tiny, "--config.finetune.epochs=2")  # and so of finetuning from scratch
    assert "this is: python -m kgpt_jax.main --mode=finetune --variant=vanilla " in out
    assert "starting from scratch" in out
    config = json.loads((tmp_path / "vanilla.model.params" / "config.json").read_text())
    assert config["scratch"]["epochs"] == config["finetune"]["epochs"] == 2

    pretrain = course("pretrain vanilla wiki.txt --writing_params_path DIR/pre.params --pretrain_lr 1e-3")
    run(*pretrain, *tiny, "--config.pretrain.epochs=1")
    config = json.loads((tmp_path / "pre.params" / "config.json").read_text())
    assert config["pretrain"]["learning_rate"] == 1e-3
    finetune = course(
        "finetune vanilla wiki.txt --reading_params_path DIR/pre.params --writing_params_path DIR/b"
    )
    run(*finetune, *pairs, "--finetune_lr", "2e-3", "--config.finetune.epochs=1")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["finetune"]["learning_rate"] == config["scratch"]["learning_rate"] == 2e-3

    evaluate = course("evaluate vanilla wiki.txt --reading_params_path DIR/b --eval_corpus_path")
    out = run(*evaluate, dev, "--outputs_path", tmp_path / "dev.txt")
    assert "out of 4.0: " in out and "always 'London': " in out
    assert (tmp_path / "dev.txt").read_text().count("\n") == 4
    out = run(*evaluate, test, "--outputs_path", tmp_path / "test.txt")
    assert "no answers to compare with" in out and "Correct" not in out
    assert (tmp_path / "test.txt").read_text().count("\n") == 3
    assert "always 'London': " in run("london_baseline", "--eval_corpus_path", dev)

    # No output replaces an input or what we did not write.
    before = Path(dev).read_text()
    assert "is read by this command and cannot be" in run(*evaluate, dev, "--outputs_path", dev, status=2)
    assert "this program did not write what it holds" in run(*evaluate, dev, "--outputs_path", test, status=2)
    assert "holds greedy answers, and this would replace them by answers by 2 beams" in run(
        *evaluate, dev, *pairs, "--outputs_path", tmp_path / "dev.txt", "--beams=2", status=2
    )
    assert Path(dev).read_text() == before

    # Other documents are told apart, be their characters the same.
    (tmp_path / "two.txt").write_text("".join(Path(wiki).read_text().splitlines(keepends=True)[:2]))
    other = course(
        "finetune vanilla DIR/two.txt --reading_params_path DIR/pre.params --writing_params_path DIR/c"
    )
    complaint = run(*other, *pairs, status=2)
    assert f"was pretrained on {wiki} (digest " in complaint and "has other documents" in complaint
    run(*other, *pairs, "--config.finetune.epochs=1", "--config.data.other_corpus=true")
    assert f"was pretrained on {wiki}, and the built-in people are asked for" in run(
        "--mode=evaluate", f"--reading_params_path={tmp_path}/pre.params", "--pretrain_corpus_path=", status=2
    )


@pytest.mark.parametrize("name", ["predictions.txt", "scratch_results.json"])
def test_an_output_that_is_not_ours_is_noticed_before_training(tmp_path, name):
    (tmp_path / "vanilla" / "evaluate").mkdir(parents=True)
    (tmp_path / "vanilla" / "evaluate" / name).write_text("mine")
    complaint = run("--mode=all", f"--workdir={tmp_path}", *TINY, status=2)
    assert f"{name} exists, and this program did not write what it holds" in complaint
    assert not (tmp_path / "vanilla" / "pretrain").exists()


def test_questions_that_finetuning_answers_are_noticed_before_training(tmp_path):
    contents = {
        "pretrain": "A was born in Rome .\n" * 3,
        "finetune": "Where was A born?\tRome\nWhere was B born?\tOslo\n",
        "eval": "Where was B born?\tOslo\nWhere was C born?\tBonn\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    files = [f"--{name}_corpus_path={tmp_path / name}" for name in contents]
    complaint = run("--mode=all", *files, f"--workdir={tmp_path}/runs", *TINY, status=2)
    assert "has learned the answers to 1 of the 2 questions asked" in complaint
    assert not (tmp_path / "runs" / "vanilla" / "pretrain").exists()


def test_what_a_run_learned_is_not_asked(tmp_path):
    rows = [f"Where was {name} born?\t{place}" for name, place in zip("ABCDEFGH", ["Rome", "Oslo"] * 4)]
    (tmp_path / "wiki.txt").write_text("A was born in Rome .\n" * 3)
    for name, some in (("all", rows), ("tail", rows[2:]), ("dev", [rows[0], rows[1], rows[6]])):
        (tmp_path / f"{name}.tsv").write_text("\n".join(some) + "\n")
    flags = [f"--pretrain_corpus_path={tmp_path}/wiki.txt", f"--workdir={tmp_path}", *TINY]
    tail, whole = (f"--finetune_corpus_path={tmp_path}/{name}.tsv" for name in ("tail", "all"))
    run("--mode=finetune", "--reading_params_path=none", tail, "--config.data.n_validation=1", *flags)
    evaluate = ["--mode=evaluate", f"--reading_params_path={tmp_path}/vanilla/scratch"]
    # Fewer pairs than n_validation leaves, and yet one of those held out.
    complaint = run(*evaluate, whole, "--config.data.n_validation=2", status=2)
    assert (
        "scratch has learned the answers to 1 of the 2 questions asked, the first 'Where was G born?'"
        in complaint
    )
    dev = [f"--eval_corpus_path={tmp_path}/dev.tsv", "--config.data.n_validation=0"]
    assert "has learned the answers to 1 of the 3" in run(*evaluate, *dev, status=2)
    out = run(*evaluate, *dev, "--config.data.skip_learned=true")
    assert "out of 2.0: " in out and "1 of the 3 questions, the first 'Where was G born?'" in out
    (tmp_path / "tail.tsv").unlink()  # which continuing a text does not need
    assert "Where" in run("--mode=sample", evaluate[1], "--prompt=Where", "--num_samples=1", "--max_new=3")


def test_another_variant_or_vocabulary_is_refused(whole):
    root, _ = whole
    reading = f"--reading_params_path={root}/synthesizer/pretrain"
    complaint = run("--mode=finetune", reading, "--variant=vanilla", status=2)
    assert "model.variant 'synthesizer', and 'vanilla' is asked for" in complaint
    complaint = run("--mode=finetune", reading, "--config.model.n_layer=3", status=2)
    assert "model.n_layer 1, and 3 is asked for" in complaint
    # A recipe made for other people: nobody typed their number, so it is not what is complained about.
    complaint = run("--mode=finetune", reading, "--config=configs/course_2024.py", status=2)
    assert "model.seq_len 127, and 128 is asked for: leave out --config or the flag" in complaint
    complaint = run("--mode=sample", reading, "--prompt=a", "--variant=vanilla", status=2)
    assert "model.variant 'synthesizer', and 'vanilla' is asked for" in complaint
    complaint = run("--mode=evaluate", reading, "--config.data.biographies.n_dev=7", status=2)
    assert "n_dev=6; 7 gives other people: use 6" in complaint


def test_a_corpus_of_another_vocabulary_is_refused(whole, tmp_path):
    root, _ = whole
    (tmp_path / "greek.txt").write_text("Σωκράτης\n")
    reading = f"--reading_params_path={root}/synthesizer/pretrain"
    (tmp_path / "pairs.tsv").write_text("Where?\tThere\n")
    flags = [
        f"--pretrain_corpus_path={tmp_path}/greek.txt",
        f"--finetune_corpus_path={tmp_path}/pairs.tsv",
        f"--eval_corpus_path={tmp_path}/pairs.tsv",
        "--config.data.other_corpus=true",
    ]
    for mode in ("finetune", "evaluate"):
        complaint = run(f"--mode={mode}", reading, *flags, status=2)
        assert "greek.txt" in complaint and "pretrain" in complaint
        assert "has characters that" in complaint and "Σ" in complaint


def test_nothing_to_start_from_is_said(tmp_path):
    complaint = run("--mode=finetune", f"--workdir={tmp_path}", status=2)
    assert (
        f"no run in {tmp_path}/<variant>/pretrain: run --mode=pretrain first, or give --workdir or "
        "--reading_params_path" in complaint
    )
    complaint = run("--mode=evaluate", f"--reading_params_path={tmp_path}", status=2)
    assert "is not a run's folder" in complaint


def test_sample_is_seeded(whole):
    root, _ = whole
    flags = ["--mode=sample", f"--reading_params_path={root}/synthesizer/pretrain", "--prompt=Where"]
    once = run(*flags, "--num_samples=3", "--max_new=12", "--temperature=0.8", "--top_k=9", "--seed=4")
    again = run(*flags, "--num_samples=3", "--max_new=12", "--temperature=0.8", "--top_k=9", "--seed=4")
    texts = once.splitlines()
    assert once == again and len(texts) == 3 and len(set(texts)) > 1
    assert all(text.startswith("Where") and len(text) <= 17 for text in texts)
    assert "the prompt has '#'" in run(*flags[:2], "--prompt=#", status=2)
    assert "needs --prompt" in run(*flags[:2], status=2)


def test_attend_answers_and_draws(whole, tmp_path):
    root, _ = whole
    flags = ["--mode=attend", f"--workdir={root}", "--question=Where was born?"]
    out = run(*flags)
    assert f"reading with {root}/synthesizer/finetune" in out and "\nWhere was born? " in out
    assert (root / "synthesizer" / "finetune" / "attention.png").read_bytes()[:4] == b"\x89PNG"
    run(*flags, f"--outputs_path={tmp_path}/map.svg")
    assert "<svg" in (tmp_path / "map.svg").read_text()
    assert "--question has '#'" in run(*flags[:2], "--question=#", status=2)
    assert "give 1 to 94, so that an answer fits" in run(*flags[:2], f"--question={'a' * 95}", status=2)
    assert "needs --question" in run(*flags[:2], status=2)
    assert "give --question once" in run(*flags[:2], "--question=a", "--question=b", status=2)


def test_costs_are_listed():
    out = run("--mode=costs", "--variants=rope,bigbird", "--lengths=32,64", *TINY).splitlines()
    for name, lines in (("rope ", 4), ("bigbird ", 5)):  # formula, its options, cost on paper, two lengths
        assert sum(line.startswith(name) for line in out) == lines
    assert any("softmax(rot(Q) rot(K)^T / sqrt(K)) V" in line for line in out)
    one = run("--mode=costs", "--config.model.variant=linformer", "--lengths=32", *TINY)
    assert "linformer " in one and "vanilla " not in one
    assert "unknown variant 'gated'" in run("--mode=costs", "--variants=rope,gated", status=2)
    assert "--lengths=32,x: give whole numbers" in run("--mode=costs", "--lengths=32,x", status=2)


def test_torch_params_remember_the_seed_of_patterns(tmp_path):
    pytest.importorskip("torch")
    flags, exported = ["--variant=synthesizer_random_fixed", *TINY], f"{tmp_path}/model.params"
    run("--mode=pretrain", "--seed=3", f"--workdir={tmp_path}", *flags)
    pretrained = f"--reading_params_path={tmp_path}/synthesizer_random_fixed/pretrain"
    run("--mode=export", pretrained, f"--writing_params_path={exported}")
    imports = [
        "--mode=import",
        f"--reading_params_path={exported}",
        f"--writing_params_path={tmp_path}/imported",
    ]
    assert "the file's patterns are drawn from seed 3: give --seed=3" in run(*imports, *flags, status=2)
    run(*imports, "--seed=3", *flags)
    config = json.loads((tmp_path / "imported" / "config.json").read_text())
    assert config["model"]["pattern_seed"] == 3


def test_torch_params_there_and_back(whole, tmp_path):
    torch = pytest.importorskip("torch")
    root, _ = whole
    exported = f"{tmp_path}/model.params"
    run(
        "--mode=export",
        f"--reading_params_path={root}/synthesizer/pretrain",
        f"--writing_params_path={exported}",
    )
    run(
        "--mode=import",
        f"--reading_params_path={exported}",
        f"--writing_params_path={tmp_path}/imported",
        "--variant=synthesizer",
        *TINY,
    )
    run(
        "--mode=export",
        f"--reading_params_path={tmp_path}/imported",
        f"--writing_params_path={tmp_path}/again.params",
    )
    first, second = (torch.load(p, weights_only=True) for p in (exported, f"{tmp_path}/again.params"))
    assert first.keys() == second.keys() and "blocks.0.attn.mask" in first
    assert all(torch.equal(first[name], second[name]) for name in first)
    finetuned = f"{tmp_path}/finetuned"
    run(
        "--mode=finetune",
        f"--reading_params_path={tmp_path}/imported",
        f"--writing_params_path={finetuned}",
    )
    assert "out of 6.0" in run("--mode=evaluate", f"--reading_params_path={finetuned}")
    out = run("--mode=evaluate", f"--reading_params_path={tmp_path}/imported", *TINY)
    assert "out of 6.0" in out

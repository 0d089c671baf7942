"""Modes that take several runs or models, in a tiny size: compare, distill; and pairs held out."""

import json

import pytest

from tests.commands import TINY, run


@pytest.mark.long
def test_compare_prints_a_row_for_each_variant(tmp_path):
    flags = ["--mode=compare", "--variants=rope", "--seeds=1,2", f"--workdir={tmp_path}", *TINY]
    row = run(*flags).splitlines()[-1]
    assert row.startswith("| `rope` | ") and " | 2 | " in row
    configs = [json.loads((tmp_path / f"seed_{s}/rope/finetune/config.json").read_text()) for s in (1, 2)]
    assert [config["seed"] for config in configs] == [1, 2]
    assert [config["data"]["biographies"]["seed"] for config in configs] == [1, 2]
    again = run(*flags)
    assert again.splitlines()[-1] == row and "pretraining" not in again
    assert "is the result with pretrain.epochs 1, and 2 is asked for: give another --workdir" in run(
        *flags, "--config.pretrain.epochs=2", status=2
    )
    (tmp_path / "seed_1" / "rope" / "result.json").write_text('{"correct": 1}')
    assert "result.json is no result (KeyError('total')): remove it" in run(*flags, status=2)


def test_several_models_vote_and_one_learns_from_them(tmp_path):
    flags = ["--mode=all", "--variant=rope", "--num_seeds=3", f"--workdir={tmp_path}", *TINY]
    out = run(*flags)
    assert "\n3 models, each: " in out and "\ntheir mean: " in out and "\ntheir vote:\nCorrect: " in out
    flags = ["--mode=distill", f"--workdir={tmp_path}", "--config.pretrain.epochs=1"]
    learning = "--objective=answer_span=0.8,question_answer=0.2"
    deeper = "--config.model.n_layer=2"
    assert "half of 3 models agree on " in run(*flags, learning, deeper)
    trained = tmp_path / "rope" / "distill"
    assert json.loads((trained / "config.json").read_text())["n_seeds"] == 1
    out = run("--mode=evaluate", f"--reading_params_path={trained}", "--beams=2")
    assert "answers are restricted to " in out and "models, each" not in out
    out = run("--mode=evaluate", f"--reading_params_path={trained}", f"--voters={tmp_path}/rope/finetune")
    assert "\n4 models, each: " in out and "\ntheir vote:\nCorrect: " in out
    every = set(json.loads((trained / "run.json").read_text()))
    assert {"taught_by", "most_frequent_answer"} <= every

    alone = ["--mode=distill", f"--reading_params_path={trained}", f"--workdir={tmp_path}/next"]
    assert "names a run twice: each votes once" in run(*alone, f"--voters={trained}", status=2)
    teachers = tmp_path / "rope" / "finetune"
    more = ["--mode=distill", f"--reading_params_path={teachers}", f"--workdir={tmp_path}/next"]
    more += [f"--voters={trained}", f"--student_params_path={trained}", "--config.finetune.epochs=1"]
    out = run(*more)
    assert f"asking {teachers}" in out and "of 4 models agree on " in out and "finetuning: rope, " in out
    out = run(*more)
    assert "asking" not in out and "is finished" in out
    assert json.loads((tmp_path / "next/rope/distill/config.json").read_text())["model"]["n_layer"] == 2
    facts = json.loads((tmp_path / "next/rope/distill/run.json").read_text())
    assert facts["started_from"] == str(trained)
    assert facts["taught_by"] == [str(teachers), str(trained)]


def test_pairs_held_out_are_asked_about(tmp_path):
    flags = ["--variant=vanilla", f"--workdir={tmp_path}", "--config.data.n_validation=3", *TINY]
    out = run("--mode=finetune", "--reading_params_path=none", *flags)
    assert "finetuning: vanilla, 5 questions" in out
    out = run("--mode=evaluate", f"--reading_params_path={tmp_path}/vanilla/scratch")
    assert " out of 3.0: " in out
    none_left = run(
        "--mode=finetune", "--reading_params_path=none", *flags, "--config.data.n_validation=8", status=2
    )
    assert "data.n_validation is 8 of 8 training pairs: give fewer" in none_left
    more = [
        "--mode=evaluate",
        f"--reading_params_path={tmp_path}/vanilla/scratch",
        "--config.data.n_validation=4",
    ]
    assert "has learned the answers to 1 of the 4 questions asked" in run(*more, status=2)


def test_show_and_biographies(tmp_path):
    out = run("--mode=show", "--objective=question_answer", "--num_samples=1", *TINY)
    x, y = out.splitlines()
    assert x.startswith("x: Where was ") and y.startswith("y: □□□")
    assert x[3:].split("⁇")[1] == y[3:].split("⁇")[1]
    out = run("--mode=show", "--objective=span_corruption", "--num_samples=2", *TINY)
    assert len(out.splitlines()) == 4
    run("--mode=biographies", f"--outputs_path={tmp_path}/data", *TINY)
    assert len((tmp_path / "data" / "wiki.txt").read_text().splitlines()) == 17
    (tmp_path / "data" / "birth_dev.tsv").write_text("the course's own\n")
    again = run("--mode=biographies", f"--outputs_path={tmp_path}/data", *TINY, status=2)
    assert "birth_dev.tsv exists with another content: give another folder" in again

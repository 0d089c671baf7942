import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import speedrun
from benchmarks.speedrun import Run
from kgpt_jax.answer.score import Score

SHARED = [
    "--seed=3",
    "--workdir=w",
    "--config.data.n_validation=600",
    "--variant=rope",
    "--config=c.py",
    "--pretrain_corpus_path=d",
    "--finetune_corpus_path=p",
    "--config.pretrain.epochs=2",
]


def values(finetune, recite):
    """The command's flags."""
    return SimpleNamespace(
        variant="rope",
        config="c.py",
        pretrain_corpus_path="d",
        finetune_corpus_path="p",
        finetune=finetune,
        recite=recite,
        questions="clean",
    )


def commands_of(finetune, recite):
    return speedrun.commands(values(finetune, recite), 3, Path("w"), ["--config.pretrain.epochs=2"])


def test_a_model_is_pretrained_finetuned_and_evaluated():
    assert commands_of(finetune=True, recite=False) == {
        "pretrain": ["--mode=pretrain", *SHARED],
        "finetune": ["--mode=finetune", *SHARED],
        "evaluate": [
            "--mode=evaluate",
            *SHARED,
            "--reading_params_path=w/rope/finetune",
            "--outputs_path=w/predictions.txt",
        ],
    }


def test_without_finetuning_the_pretrained_model_recites():
    found = commands_of(finetune=False, recite=True)
    assert list(found) == ["pretrain", "evaluate"]
    assert found["evaluate"][-3:] == [
        "--reading_params_path=w/rope/pretrain",
        "--outputs_path=w/predictions.txt",
        "--recite",
    ]


@pytest.mark.parametrize("flag", ["--workdir=w", "-seed=7", "--config.data.n_validation=0"])
def test_what_is_measured_cannot_be_changed(flag):
    with pytest.raises(SystemExit, match=f"error: {flag} would change what is measured: leave it out"):
        speedrun.main(["speedrun", flag])


def test_the_last_questions_are_spent():
    rows = [{"question": f"{i}?", "right": i in (0, 1, 399, 400)} for i in range(597)]
    rows.insert(0, rows[-1] | {"right": True})  # also among the last: spent
    assert speedrun.score(rows, "clean") == (2, 399)
    assert speedrun.score(rows, "spent") == (3, 199)


def test_each_model_starts_from_nothing_and_its_answers_are_counted(monkeypatch):
    started = []

    def start(command, env, stdout, check):
        assert "JAX_COMPILATION_CACHE_DIR" not in env and not any(Path(env["XDG_CACHE_HOME"]).glob("*cache*"))
        started.append((command[3], stdout is sys.stderr))
        if command[3] == "--mode=evaluate":
            (flag,) = [one for one in command if one.startswith("--outputs_path=")]
            folder = Path(flag.partition("=")[2]).parent
            rows = [{"question": f"{i}?", "right": i < 300} for i in range(595)]
            (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
            (folder / "results.json").write_text('{"config": {"model_num_parameters": 7}}')

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    monkeypatch.setattr(speedrun.subprocess, "run", start)
    monkeypatch.setattr(speedrun, "FLAGS", values(finetune=False, recite=True))
    found = speedrun.run(1, [])
    assert started == [("--mode=pretrain", True), ("--mode=evaluate", False)]
    assert found.score == (300, 397) and found.parameters == 7
    assert list(found.seconds) == ["pretrain", "evaluate"]


@pytest.mark.parametrize(
    "seeds, correct, parameters, is_record, ends",
    [
        (3, 75, 3_330_000, True, "75.0% reached"),
        (3, 74, 3_330_000, True, "75.0% not reached"),
        (3, 75, 3_330_001, True, "no record, because the model has more than 3,330,000 parameters"),
        (2, 75, 3_330_000, True, "a trial, no record"),
        (3, 75, 3_330_000, False, "a trial, no record"),
    ],
)
def test_a_record_needs_its_target_three_seeds_and_a_small_model(seeds, correct, parameters, is_record, ends):
    done = [Run({"pretrain": 90.0, "evaluate": 30.0}, Score(correct, 100), parameters)] * seeds
    line = speedrun.verdict(done, 0.75, is_record)
    assert line.startswith(f"mean of {seeds}: {correct}.0%")
    assert "in 2.0 minutes (2.0 to 2.0)" in line and line.endswith(f": {ends}")

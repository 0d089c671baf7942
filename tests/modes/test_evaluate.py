"""The files that --mode=evaluate writes, and the lines that it prints."""

import json
from types import SimpleNamespace

import pytest

from kgpt_jax.answer.report import answer_records, harness_results, scores_by_kind, wrong_answers
from kgpt_jax.answer.score import Score
from kgpt_jax.config import override
from kgpt_jax.data.biographies import generate
from kgpt_jax.modes.evaluate import print_promise
from tests import runs
from tests.commands import refused, run


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return f"--reading_params_path={runs.saved(tmp_path_factory.mktemp('run')).folder}"


@pytest.fixture(scope="module")
def written(reading, tmp_path_factory):
    """The folder of an evaluation's files, and what it printed."""
    folder = tmp_path_factory.mktemp("out")
    printed = run("--mode=evaluate", reading, f"--outputs_path={folder}/predictions.txt", "--show_wrong=2")
    return folder, printed


def test_a_promise_about_questions_without_answers_counts_those_that_it_answers(capsys):
    sure = [SimpleNamespace(known=True, confidence=0.8), SimpleNamespace(known=False, confidence=0.9)]
    calibrated = SimpleNamespace(threshold=lambda *promise: 0.7)
    found = SimpleNamespace(calibrated=calibrated, told=None, sure=sure, scored=[], targets=None)
    print_promise(found, 0.1, 0.9, "never")
    assert capsys.readouterr().out == "wrong at most 10%: answers 1 of 2 questions\n"


def test_answers_are_written_as_json_lines(written):
    folder, _ = written
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    dev = generate(runs.CONFIG.data.biographies).dev
    assert [(record["question"], record["target"]) for record in records] == dev
    predictions = (folder / "predictions.txt").read_text().splitlines()
    assert [record["answer"] for record in records] == predictions
    assert all(record["right"] == (record["answer"] == record["target"]) for record in records)


def test_results_have_the_shape_of_the_harness(written):
    folder, printed = written
    results = json.loads((folder / "results.json").read_text())
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    share = sum(record["right"] for record in records) / 6
    assert results["results"]["built_in_people"]["exact_match,none"] == share
    assert f"Correct: {6 * share} out of 6.0" in printed
    assert results["n-samples"] == {"built_in_people": {"original": 6, "effective": 6}}
    assert results["config"]["config"]["model"]["n_embd"] == 16
    for name in ("group_subtasks", "configs", "versions", "n-shot", "higher_is_better"):
        assert list(results[name]) == ["built_in_people"]


def test_wrong_answers_are_printed(written):
    folder, printed = written
    lines = printed.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("wrong answers: 2 of ")))
    wrong = [line for line in lines[first + 1 :]]
    assert len(wrong) == 2 and all(
        line.startswith("  Where was ") and "; right is " in line for line in wrong
    )


def test_each_output_is_guarded(reading, tmp_path):
    for name in ("answers.jsonl", "results.json"):
        (tmp_path / name).write_text("mine\n")
        complaint = refused("--mode=evaluate", reading, f"--outputs_path={tmp_path}/predictions.txt")
        assert f"{name} exists, and this program did not write what it holds" in complaint
        assert (tmp_path / name).read_text() == "mine\n"
        (tmp_path / name).unlink()
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def asked_all(tmp_path_factory):
    """A run that is asked about all facts."""
    config = override(runs.CONFIG, {"data.biographies.questions": "all", "data.biographies.n_facts": 6})
    return f"--reading_params_path={runs.saved(tmp_path_factory.mktemp('all'), config).folder}"


def test_several_kinds_of_questions_have_a_score_each(asked_all, tmp_path):
    lines = run("--mode=evaluate", asked_all, f"--outputs_path={tmp_path}/predictions.txt").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("95% interval"))
    nothing_right = "0 out of 6: 0.0%, 95% interval 0.0% to 39.0%; always"
    by_kind = lines[first + 1 : first + 7]
    assert by_kind[:2] == [
        f"Where was X born? {nothing_right} 'Athens': 16.7%",
        f"When was X born? {nothing_right} '14 April 1942': 16.7%",
    ]
    assert [line.split("?")[0] for line in by_kind[2:]] == [
        "What is X by trade",
        "Where did X study",
        "Where does X live",
        "Which instrument does X play",
    ]
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records[:2]] == ["Where was X born?", "When was X born?"]


def test_what_needs_one_kind_of_question_says_how_to_get_it(asked_all, tmp_path):
    for mode, *flags in (["audit"], ["evaluate", "--look_up=always"]):
        complaint = refused(f"--mode={mode}", asked_all, *flags, f"--outputs_path={tmp_path}/{mode}")
        assert "give --config.data.biographies.questions=birth_place" in complaint


class Found:
    """An evaluation of four questions, of which the last does not count."""

    questions, predictions, targets = ["A?", "B?", "C?", "D?"], ["a", "x", "", "x"], ["a", "b", "c", "d"]
    scored, score, seconds, sure, told, recited = [0, 1, 2], Score(1, 3), 1.0, None, None, ()


def test_what_a_run_has_learned_is_neither_wrong_nor_scored():
    assert wrong_answers(Found) == [("B?", "x", "b"), ("C?", "", "c")]
    assert [record["scored"] for record in answer_records(Found)] == [True, True, True, False]
    found = harness_results(Found, "dev", {})
    assert found["n-samples"] == {"dev": {"original": 4, "effective": 3}}
    assert found["results"]["dev"]["exact_match_stderr,none"] == pytest.approx(1 / 3)  # of 1, 0, 0


def test_only_what_is_scored_counts_for_its_kind():
    class Mixed(Found):
        questions = [f"{word} was {name} born?" for word in ("Where", "When") for name in "ABCDEF"]
        targets = ["Rome", "Oslo", "Rome", "Bonn", "Bonn", "Rome", *"123455"]
        predictions, scored = ["Rome"] * 6 + ["5"] * 6, [0, 1, 2, 3, 9, 10]

    assert scores_by_kind(Mixed) == [
        ("Where was X born?", (2, 4), "Rome", (2, 4)),
        ("When was X born?", (1, 2), "4", (1, 2)),
    ]
    assert scores_by_kind(Found) == []


def test_questions_without_answers_have_no_metrics(reading, tmp_path):
    (tmp_path / "test.tsv").write_text("Where was Ann born?\n")
    out = run(
        "--mode=evaluate", reading, f"--eval_corpus_path={tmp_path}/test.tsv", f"--outputs_path={tmp_path}/t"
    )
    assert "nothing is scored" in out
    record = json.loads((tmp_path / "t.answers.jsonl").read_text())
    assert record["target"] is None and record["right"] is None
    results = json.loads((tmp_path / "t.results.json").read_text())
    assert results["results"] == {"test": {"alias": "test"}}

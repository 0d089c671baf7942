"""Turns an evaluation into records for other programs, and lists its wrong answers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kgpt_jax.answer.score import Score, score
from kgpt_jax.config import DataConfig
from kgpt_jax.data.corpus import most_frequent
from kgpt_jax.data.names import kinds

if TYPE_CHECKING:
    from kgpt_jax.answer.evaluate import Evaluation
    from kgpt_jax.answer.hybrid import Told


def answer_records(found: "Evaluation") -> list[dict[str, Any]]:
    """Returns a record for each question: question, answer, target, right, scored.

    If the run is calibrated, it also has the fields of a `Sure` (`answer/record.py`), unless the calibration
    used the question. If answers were looked up, it has the fields of a `Told` (`answer/hybrid.py`). Then
    answer, confidence, probability and label are of the answer that is given; interval, known, evidence and
    one_of are of the model's answer. If the models recited, `recited` has a `Recited` or None for each model.
    `target` and `right` are None without targets. `scored` is False if a run has learned the answer. If
    there are several kinds of questions (`data/names.py`), the record also has the question's kind.
    """
    scored = set(found.scored)
    kind_of = kinds(found.questions)
    several = len(set(kind_of)) > 1
    targets: Sequence[str | None] = found.targets or [None] * len(found.questions)
    return [
        {
            "question": question,
            "answer": answer,
            "target": target,
            "right": None if target is None else answer == target,
            "scored": i in scored,
            **({"kind": kind_of[i]} if several else {}),
            **(each._asdict() if found.sure and (each := found.sure[i]) else {}),
            **(_recited(found, i) if found.recited else {}),
            **(_looked_up(found.told[i]) if found.told else {}),
        }
        for i, (question, answer, target) in enumerate(zip(found.questions, found.predictions, targets))
    ]


def _recited(found: "Evaluation", i: int) -> dict[str, Any]:
    each = [of_model[i] for of_model in found.recited]
    return {"recited": [there._asdict() if there else None for there in each]}


def _looked_up(told: "Told") -> dict[str, Any]:
    found = told.looked_up
    source = found._asdict() | {"source": found.source._asdict()} if found else None
    fields = told._asdict() | {"differ": told.differ, "looked_up": source}
    del fields["asked"]
    return fields


class OfKind(NamedTuple):
    """The score of the questions of one kind.

    Attributes:
      kind: the kind, as in "Where was X born?".
      score: the score of the answers.
      constant: the most frequent right answer to these questions.
      always: the score of always giving this answer: no other constant answer scores more.
    """

    kind: str
    score: Score
    constant: str
    always: Score


def scores_by_kind(found: "Evaluation") -> list[OfKind]:
    """Returns the score of each kind of questions. Empty if there is one kind only, or without targets."""
    if found.targets is None:
        return []
    rows_of: dict[str, list[int]] = {}
    kind_of = kinds(found.questions)
    for i in found.scored:
        rows_of.setdefault(kind_of[i], []).append(i)
    scores = []
    for kind, rows in rows_of.items():
        given, right = ([texts[i] for i in rows] for texts in (found.predictions, found.targets))
        constant = most_frequent(right)
        always = score([constant] * len(rows), right)
        scores.append(OfKind(kind, score(given, right), constant, always))
    return scores if len(scores) > 1 else []


def wrong_answers(found: "Evaluation") -> list[tuple[str, str, str]]:
    """Returns (question, answer, right answer) of each scored question whose answer is wrong."""
    if found.targets is None:
        return []
    rows = ((found.questions[i], found.predictions[i], found.targets[i]) for i in found.scored)
    return [row for row in rows if row[1] != row[2]]


def task_name(data: DataConfig) -> str:
    """Returns a short name of the questions that a config asks.

    >>> task_name(DataConfig(eval_corpus_path="data/birth_dev.tsv")), task_name(DataConfig())
    ('birth_dev', 'built_in_people')
    """
    path = data.finetune_corpus_path if data.n_validation else data.eval_corpus_path
    name = path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] or "built_in_people"
    return f"{name}_held_out" if data.n_validation else name


def harness_results(found: "Evaluation", task: str, config: dict[str, Any]) -> dict[str, Any]:
    """Returns an evaluation in the JSON format of lm-evaluation-harness, for tools that read it.

    Args:
      found: the evaluation. Without targets there are no metrics.
      task: the name of the questions.
      config: the value of the key "config": the model, its folder and so on.
    """
    metrics: dict[str, Any] = {"alias": task}
    if found.score is not None:
        metrics["exact_match,none"] = found.score.accuracy
        metrics["exact_match_stderr,none"] = standard_error(found.score.correct, found.score.total)
    return {
        "results": {task: metrics},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until",
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
                "num_fewshot": 0,
            }
        },
        "versions": {task: 1},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"exact_match": True}},
        "n-samples": {task: {"original": len(found.questions), "effective": len(found.scored)}},
        "config": config,
        "total_evaluation_time_seconds": found.seconds,
    }


def standard_error(correct: int, total: int) -> float | str:
    """Returns the standard error of an accuracy or, as the harness does, "N/A" for fewer than two questions.

    The standard error is the sample standard deviation of zeros and ones, divided by sqrt(total).

    >>> round(standard_error(30, 100), 4), standard_error(1, 1)
    (0.0461, 'N/A')
    """
    if total < 2:
        return "N/A"
    share = correct / total
    return math.sqrt(share * (1 - share) / (total - 1))

"""--mode=evaluate: answers the evaluation questions and prints how many answers are right.

    python -m kgpt_jax.main --mode=evaluate --variant=synthesizer --show_wrong=5

asks the newest finetuned run, or the one that --reading_params_path names. It writes three files:

    predictions.txt   one answer per line
    answers.jsonl     one JSON object per line: question, answer, target, right, scored; kind, if there are
                      several kinds of questions; if the run is calibrated, also label, known, confidence,
                      probability, interval, evidence, ...
    results.json      the score, in the format of lm-evaluation-harness

With --recite the model recites what it has read about the name, and the answer is read in that.
With --beams=4 the model chooses answers from a list of places. With --voters=RUN,RUN further runs vote.

With --wrong_at_most=0.1 the command also prints how many questions a calibrated run answers under the promise
that at most this share of its answers is wrong, and how many of these answers are wrong. With --one_of=0.9 it
gives sets of answers among which the right one is with this probability.

With --look_up=always it also looks answers up in the documents, with --look_up=unsure only those of which a
calibrated run is not sure.
"""

import json
from contextlib import suppress
from pathlib import Path

from absl import flags

from kgpt_jax.answer.record import NEVER, UNSURE
from kgpt_jax.answer.score import Score, constants, mean_interval, percent
from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.modes.command import Command

SHARED = (
    "reading_params_path",
    "outputs_path",
    "checkpoint",
    "voters",
    "wrong_at_most",
    "surely",
    "one_of",
    "look_up",
    "recite",
)
PREDICTIONS = Path("evaluate") / "predictions.txt"  # below <workdir>/<variant>/


def define_flags(values: flags.FlagValues):
    flags.DEFINE_integer(
        "beams",
        0,
        "Beams of a search among places; 0: the model writes any text.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer("show_wrong", 0, "Print this many wrong answers.", lower_bound=0, flag_values=values)


def run(command: Command):
    from kgpt_jax.answer.voters import with_voters

    start, further = command.start("finetune"), command.flags.voters
    config, beams = command.config(start), command.flags.beams
    asked = with_voters(start, further, config)
    in_workdir = command.workdir / config.model.variant / PREDICTIONS.parent
    folder = start.folder if command.flags.reading_params_path else in_workdir
    look_up, recite = command.flags.look_up, command.flags.recite
    if recite and beams:
        raise UserError(f"--recite writes without beams: leave it out, or --beams={beams}")
    name = predictions_name(beams, len(asked), look_up, recite)
    outputs = Path(command.flags.outputs_path or folder / name)
    wrong_at_most, surely, one_of = (
        command.flags[name].value for name in ("wrong_at_most", "surely", "one_of")
    )
    promised = check_promises(start.folder, command.flags)
    if promised and beams:
        raise UserError(f"{promised} is about what the model writes without beams: leave out --beams={beams}")
    found = evaluate(
        asked, outputs, beams, command.flags.show_wrong, look_up, recite, wrong_at_most, surely, one_of
    )
    if found.told and found.targets:
        print_looked_up(found)
    elif found.sure and found.targets:
        print_labels(found)
    if wrong_at_most is not None:
        print_promise(found, wrong_at_most, surely, look_up)
    if one_of is not None and found.targets:
        print_sets(found, one_of)


def check_promises(folder: Path, flags) -> str:
    """Returns the first flag that needs a calibration, or "".

    Raises:
      UserError: there is no calibration for it, it contradicts another flag, or its value is no share.
    """
    from kgpt_jax.answer import guarantee
    from kgpt_jax.answer.calibrated import CALIBRATION_FILE

    promised = [f"--{name}" for name in ("wrong_at_most", "one_of") if flags[name].value is not None]
    given = {name: flags[name].value for name in ("wrong_at_most", "surely", "one_of")}
    guarantee.check_shares(**{name: value for name, value in given.items() if value is not None})
    for name in ("recite", "look_up"):
        if flags.one_of is not None and flags[name].value not in (False, NEVER):
            raise UserError(
                f"--one_of is about what the model writes by itself: leave out --one_of or --{name}"
            )
    needing = promised + [f"--look_up={UNSURE}"] * (flags.look_up == UNSURE)
    if needing and not (folder / CALIBRATION_FILE).exists():
        raise UserError(f"{needing[0]} needs {folder / CALIBRATION_FILE}: run --mode=calibrate first")
    return needing[0] if needing else ""


def predictions_name(beams: int, n_runs: int, look_up: str = NEVER, recite: bool = False) -> str:
    """Returns the default name of a predictions file; each kind of prediction has its own.

    >>> predictions_name(4, 2, "always")
    'predictions_4_beams_of_2_runs_looked_up_always.txt'
    """
    searched = f"_{beams}_beams" if beams else ""
    voted = ("_recited" if recite else "") + (f"_of_{n_runs}_runs" if n_runs > 1 else "")
    return f"predictions{searched}{voted}{'' if look_up == NEVER else f'_looked_up_{look_up}'}.txt"


def predictions_kind(beams: int, n_runs: int, look_up: str = NEVER, recite: bool = False) -> str:
    """Returns in a few words how predictions are made. A file of another kind is not overwritten."""
    how = f"answers by {beams} beams" if beams else "answers after reciting" if recite else "greedy answers"
    voted = f", a vote of {n_runs} runs" if n_runs > 1 else ""
    return f"{how}{voted}{'' if look_up == NEVER else f', looked up {look_up}'}"


def beside(predictions: Path, name: str, ending: str) -> Path:
    """Returns the path of another output of the evaluation, next to its predictions.

    >>> beside(Path("predictions_4_beams.txt"), "answers", ".jsonl").name
    'answers_4_beams.jsonl'
    >>> beside(Path("scratch.txt"), "answers", ".jsonl").name
    'scratch_answers.jsonl'
    >>> beside(Path("vanilla.dev.predictions"), "answers", ".jsonl").name
    'vanilla.dev.predictions.answers.jsonl'
    """
    stem = predictions.name.removesuffix(".txt")
    if stem == predictions.name:
        return predictions.with_name(f"{stem}.{name}{ending}")
    if stem.startswith("predictions"):
        return predictions.with_name(f"{name}{stem.removeprefix('predictions')}{ending}")
    return predictions.with_name(f"{stem}_{name}{ending}")


def check_outputs(predictions: Path, data: DataConfig, kind: str) -> dict[Path, str]:
    """Checks that an evaluation may write its three files: predictions, answers and results.

    Returns:
      What each file will hold, in this order.

    Raises:
      UserError: a file cannot be written, or a file that is not ours is in its place.
    """
    from kgpt_jax.devices import is_first
    from kgpt_jax.store.outputs import check

    answers, results = beside(predictions, "answers", ".jsonl"), beside(predictions, "results", ".json")
    kinds = {predictions: kind, answers: f"{kind} with their questions", results: f"results of {kind}"}
    inputs = [data.pretrain_corpus_path, data.finetune_corpus_path, data.eval_corpus_path]
    for path, of_kind in kinds.items() if is_first() else []:
        check(path, of_kind, inputs)
    return kinds


def evaluate(
    asked,
    outputs: Path,
    beams: int = 0,
    show_wrong: int = 0,
    look_up: str = NEVER,
    recite: bool = False,
    wrong_at_most: float | None = None,
    surely: float = 0.9,
    one_of: float | None = None,
):
    """Evaluates runs, writes their answers and scores to files, prints the scores, and returns them.

    Args:
      asked: the runs that vote, with their configs (`answer/voters.py`). `config.data` of the first names the
        questions.
      outputs: the file of predictions; answers and results are written beside it.
      beams: the width of a beam search among places; 0 lets the model write any text.
      show_wrong: how many wrong answers to print.
      look_up: whether to look answers up: never, unsure or always.
      recite: whether the models recite before they answer.
      wrong_at_most, surely: a promise about errors (`answer/guarantee.py`), which needs a calibration; None
        promises nothing.
      one_of: the level of sets of answers, which also need a calibration; None makes no sets.

    Raises:
      UserError: an output cannot be written, a file that is not ours is in its place, a calibration is needed
        and does not fit or used one of the questions, or the promise cannot be made.
    """
    from kgpt_jax.answer import evaluate as evaluation
    from kgpt_jax.answer.report import answer_records, harness_results, task_name
    from kgpt_jax.answer.sure import Judge
    from kgpt_jax.answer.voters import load_voters
    from kgpt_jax.config import to_dict
    from kgpt_jax.data import corpus
    from kgpt_jax.devices import is_first
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.store.outputs import write_lines

    run, config = asked[0]
    data, kind = config.data, predictions_kind(beams, len(asked), look_up, recite)
    kinds = check_outputs(outputs, data, kind)  # before the evaluation, whose result would be lost
    _, answers, results = kinds
    judge = Judge(load_voters(asked, "evaluating", recite))
    table = corpus.load_questions(data)
    if look_up == UNSURE or (wrong_at_most, one_of) != (None, None):
        judge.check(recite, wrong_at_most, surely, look_up, one_of)
        if used := judge.used(table.questions):
            raise UserError(
                f"the calibration used {len(used)} of these {len(table.questions)} questions, the first "
                f"{table.questions[used[0]]!r}, and their answers have no confidence: ask others "
                "(--config.data.n_validation=0 or --eval_corpus_path), or leave out the flags that need one"
            )
    found = evaluation.evaluate(judge, data, beams, table, one_of, look_up, recite)
    if is_first():
        about = {
            "model": "kgpt_jax",
            "model_args": {"folder": str(run.folder), "checkpoint": run.checkpoint},
            "voters": [str(voter.folder) for voter, _ in asked[1:]],
            "model_num_parameters": run.config.n_seeds * count_params(run.config.model),
            "beams": beams,
            "look_up": look_up,
            "recite": recite,
            "random_seed": config.seed,
            "config": to_dict(config),
        }
        contents = {
            outputs: found.predictions,
            answers: [json.dumps(record, ensure_ascii=False) for record in answer_records(found)],
            results: [
                json.dumps(harness_results(found, task_name(data), about), indent=2, ensure_ascii=False)
            ],
        }
        for path, of_kind in kinds.items():
            write_lines(path, contents[path], of_kind)
    print(
        f"wrote {len(found.predictions):,} predictions to {outputs}, "
        f"and beside it {answers.name} and {results.name}"
    )
    if found.score is None:
        print("the questions have no answers to compare with: nothing is scored")
        return found
    if len(found.each) > 1:
        shares = [each.accuracy for each in found.each]
        print(f"{len(shares)} models, each: {', '.join(f'{share:.1%}' for share in shares)}")
        mean = sum(shares) / len(shares)
        print(f"their mean: {mean:.1%}, 95% interval {percent(mean_interval(shares))}")
        print("their vote and the documents:" if found.told else "their vote:")
    correct, total = float(found.score.correct), float(found.score.total)
    print(f"Correct: {correct} out of {total}: {correct / total * 100}%")
    print(f"95% interval: {percent(found.score.interval)}")
    print_kinds(found)
    if is_first() and kind == predictions_kind(0, 1) and run.checkpoint == "newest":
        draw_score(run.folder, found.score)
    right = [found.targets[i] for i in found.scored]
    print_constants(constants(right, run.facts.get("most_frequent_answer", "London")))
    if show_wrong:
        print_wrong(found, show_wrong)
    return found


def print_promise(found, wrong_at_most: float, surely: float, look_up: str):
    """Prints how many questions are answered under a promise, and how many of these answers are wrong.

    Raises:
      UserError: the promise cannot be made.
    """
    least = found.calibrated.threshold(wrong_at_most, surely, look_up)
    if found.told:
        confidences = [told.confidence for told in found.told]
    else:
        confidences = [sure.confidence if sure.known else None for sure in found.sure]
    rows = found.scored if found.targets else range(len(confidences))
    given = [i for i in rows if confidences[i] is not None and confidences[i] >= least]
    line = f"wrong at most {100 * wrong_at_most:g}%: answers {len(given)} of {len(rows)} questions"
    if given and found.targets:
        wrong = sum(found.predictions[i] != found.targets[i] for i in given)
        line += f", {wrong} of them wrongly: {Score(wrong, len(given))}"
    print(line)


def print_looked_up(found):
    """Prints how many questions were looked up, and how many answers from each side are right."""
    from kgpt_jax.answer.hybrid import LOOKED_UP

    asked = sum(found.told[i].asked for i in found.scored)
    print(f"looked up: {asked} of {len(found.scored)} questions")
    for side, of_side in (("the documents", True), ("the model", False)):
        print_share(found, f"from {side}", [(told.label == LOOKED_UP) == of_side for told in found.told])


def print_labels(found):
    """Prints how many answers have each label, and how many of them are right."""
    from kgpt_jax.answer.label import LABELS

    for label in LABELS:
        print_share(found, label, [bool(sure) and sure.label == label for sure in found.sure])


def print_share(found, name: str, chosen: list[bool]):
    """Prints how many of the chosen answers are right; nothing if none that is scored is chosen."""
    rows = [i for i in found.scored if chosen[i]]
    if rows:
        right = Score(sum(found.predictions[i] == found.targets[i] for i in rows), len(rows))
        interval = percent(right.interval)
        print(f"{name}: {len(rows)} answers, {right.accuracy:.1%} right, 95% interval {interval}")


def print_sets(found, one_of: float):
    """Prints in how many sets of answers the right one is, and how large the sets are."""
    held = sum(found.targets[i] in found.sure[i].one_of for i in found.scored)
    n = len(found.scored)
    size = sum(len(found.sure[i].one_of) for i in found.scored) / n
    right = f"the right one is in {held} of {n}: {Score(held, n)}"
    print(f"sets at {100 * one_of:g}%: {size:.2f} answers on average, {right}")


def print_kinds(found):
    """Prints the score of each kind of question, if there are several, and of the best constant answer."""
    from kgpt_jax.answer.report import scores_by_kind

    for of in scores_by_kind(found):
        always = f"always {of.constant!r}: {of.always.accuracy:.1%}"
        print(f"{of.kind} {of.score.correct} out of {of.score.total}: {of.score}; {always}")


def print_wrong(found, most: int):
    """Prints up to `most` wrong answers of an evaluation, each with its question and the right answer."""
    from kgpt_jax.answer.report import wrong_answers

    wrong = wrong_answers(found)
    print(f"wrong answers: {min(most, len(wrong))} of {len(wrong)}")
    for question, answer, target in wrong[:most]:
        print(f"  {question} {answer or '(nothing)'}; right is {target}")


def draw_score(folder: Path, score):
    """Redraws a run's `loss.png` with the score in its title, until training redraws it without the score."""
    from kgpt_jax.train.progress import draw_loss

    with suppress(OSError):  # the folder may be another user's
        draw_loss(folder, f"{score.correct} of {score.total} held-out questions right: {score}")


def print_constants(scores):
    """Prints the scores of constant answers, as (answer, score)."""
    for answer, score in scores:
        print(f"always {answer!r}: {score.correct} out of {score.total}: {score}")

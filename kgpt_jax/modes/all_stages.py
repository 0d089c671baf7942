"""--mode=all: all stages, with and without pretraining, and one table.

    python -m kgpt_jax.main --mode=all --variant=vanilla

pretrains, finetunes and evaluates below <workdir>/<variant>/, and does the same without pretraining. It
prints a table and writes it as summary.json. Finished stages are not repeated.
"""

import json

from kgpt_jax.modes.command import Command
from kgpt_jax.modes.evaluate import PREDICTIONS, check_outputs, evaluate, predictions_kind

SHARED = ("tensorboard",)
SUMMARY = "a summary"
FROM_SCRATCH = PREDICTIONS.with_name("scratch.txt")


def run(command: Command):
    from kgpt_jax.answer.score import constants
    from kgpt_jax.answer.voters import with_voters
    from kgpt_jax.data import corpus
    from kgpt_jax.data.holdout import refuse_learned
    from kgpt_jax.data.stage_data import STAGE_OBJECTIVES, load_stage_data
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import learned_by, with_vocab
    from kgpt_jax.store.folder import Run
    from kgpt_jax.store.outputs import check
    from kgpt_jax.train.loop import check_fits
    from kgpt_jax.train.stages import finetune, pretrain

    config, tensorboard = command.config(), command.flags.tensorboard
    root = command.workdir / config.model.variant
    # Check the inputs of all stages before the first one begins.
    vocab = Vocab.of(corpus.load_documents(config.data).characters)
    asked = corpus.load_questions(config.data)
    for stage in ("finetune", "scratch"):
        facts = load_stage_data(config, stage, vocab).facts
        if asked.answers is not None and not config.data.skip_learned:
            learned = learned_by([Run(root / stage, config, vocab, facts)])
            refuse_learned(asked.questions, learned, f"{root / stage}, once trained,")
    for stage in STAGE_OBJECTIVES:
        check_fits(with_vocab(config, vocab), stage)
    check(root / "summary.json", SUMMARY)
    for predictions in (PREDICTIONS, FROM_SCRATCH):
        check_outputs(root / predictions, config.data, predictions_kind(0, 1))

    pretrained = pretrain(config, root / "pretrain", tensorboard)
    finetuned = finetune(config, root / "finetune", pretrained.run, tensorboard)
    with_reading = evaluate(with_voters(finetuned.run, [], config), root / PREDICTIONS)
    scratch = finetune(config, root / "scratch", None, tensorboard)
    without = evaluate(with_voters(scratch.run, [], config), root / FROM_SCRATCH)
    if with_reading.score is None:
        print("no table: the questions have no answers")
        return
    right = [with_reading.targets[i] for i in with_reading.scored]
    frequent = finetuned.run.facts.get("most_frequent_answer", "London")
    constant, baseline = max(constants(right, frequent), key=lambda named: named[1].correct)
    seconds = pretrained.seconds + finetuned.seconds + with_reading.seconds
    rows = [
        (f"always {constant}", baseline, 0.0),
        ("finetuned from scratch", without.score, scratch.seconds + without.seconds),
        ("pretrained and finetuned", with_reading.score, seconds),
    ]
    print_table(config.model.variant, rows, root / "summary.json")


def print_table(variant: str, rows: list, path):
    """Prints rows of (name, score, seconds of training and answering) as a table, and writes them as JSON."""
    from kgpt_jax.answer.score import percent
    from kgpt_jax.store.outputs import write_lines

    summary = [
        {
            "name": name,
            "correct": score.correct,
            "total": score.total,
            "accuracy": score.accuracy,
            "interval": list(score.interval),
            "seconds": seconds,
        }
        for name, score, seconds in rows
    ]
    write_lines(path, [json.dumps(summary, indent=1)], SUMMARY)
    heads = f"{'correct':>8}{'n':>6}{'accuracy':>10}{'95% interval':>18}{'seconds':>9}"
    print(f"\n{variant:<26}{heads}")
    for name, score, seconds in rows:
        print(
            f"{name:<26}{score.correct:>8}{score.total:>6}{score.accuracy:>10.1%}"
            f"{percent(score.interval):>18}{seconds:>9.1f}"
        )
    print(f"\nwrote {path}")

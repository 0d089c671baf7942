"""--mode=baseline: scores the constant answer London, like the course's london_baseline.

python -m kgpt_jax.main --mode=baseline
"""

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ()


def run(command: Command):
    from kgpt_jax.answer.score import constants
    from kgpt_jax.data import corpus
    from kgpt_jax.modes.evaluate import print_constants

    table = corpus.load_questions(command.config().data)
    if table.answers is None:
        raise UserError("the questions have no answers to compare with: give others as --eval_corpus_path")
    print_constants(constants(table.answers))

"""--mode=teach: stores an answer to a question, which --mode=ask and --mode=serve give from then on.

    python -m kgpt_jax.main --mode=teach --question="Where was Jana Lund born?" --answer="Brussels"

appends the pair to taught.tsv in the run's folder. It trains nothing: to train on such pairs, add them to the
file of --finetune_corpus_path and run --mode=finetune.
"""

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "question")


def define_flags(values: flags.FlagValues):
    flags.DEFINE_string("answer", None, "The answer to --question.", flag_values=values)


def run(command: Command):
    from kgpt_jax.answer.taught import TAUGHT_FILE, teach

    question, *others = command.needed("question")
    if others:
        raise UserError("give --question once: --mode=teach tells one answer at a time")
    question, answer = question.strip(), command.needed("answer").strip()
    folder = command.start("finetune").folder
    teach(folder, question, answer)
    print(f"{folder / TAUGHT_FILE}: from now on the answer to {question!r} is {answer!r}")

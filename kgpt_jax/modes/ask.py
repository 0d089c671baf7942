"""--mode=ask: answers your own questions.

    python -m kgpt_jax.main --mode=ask --question="Where was Ruth Kaplan born?"

--question may be repeated; without it, questions are the lines of standard input.
"""

import sys

SHARED = ("reading_params_path", "checkpoint", "voters", "question")


def run(command):
    from kgpt_jax.answer.predict import ask, voting
    from kgpt_jax.answer.score import vote
    from kgpt_jax.modes.evaluate import voters

    start = command.start("finetune")
    config = command.config(start)
    asked = voting(voters(start.folder, command.flags.voters), config)
    questions = command.flags.question or [line.strip() for line in sys.stdin if line.strip()]
    answers = [each for run, fitted in asked for each in ask(run, fitted, questions).answers]
    for question, answer in zip(questions, vote(answers)):
        print(f"{question} {answer}")

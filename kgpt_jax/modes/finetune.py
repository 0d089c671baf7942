"""--mode=finetune: trains a model on questions with their answers.

    python -m kgpt_jax.main --mode=finetune --variant=synthesizer

starts from the newest pretrained run, or from the one that --reading_params_path names.
--reading_params_path=none trains a new model from scratch.
"""

from kgpt_jax.course import SCRATCH
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "writing_params_path", "checkpoint", "start_anew", "tensorboard")


def run(command: Command):
    start = None if command.flags.reading_params_path == SCRATCH else command.start("pretrain")
    config = command.config(start)
    folder = command.new_run(config, "finetune" if start else "scratch", start)

    from kgpt_jax.train.stages import finetune

    finetune(config, folder, start, command.flags.tensorboard, start_anew=command.flags.start_anew)

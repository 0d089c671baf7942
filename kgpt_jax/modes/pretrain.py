"""--mode=pretrain: trains a new model on documents.

python -m kgpt_jax.main --mode=pretrain --variant=synthesizer
"""

from kgpt_jax.modes.command import Command

SHARED = ("writing_params_path", "start_anew", "tensorboard")


def run(command: Command):
    config = command.config()
    folder = command.new_run(config, "pretrain")

    from kgpt_jax.train.stages import pretrain

    pretrain(config, folder, command.flags.tensorboard, start_anew=command.flags.start_anew)

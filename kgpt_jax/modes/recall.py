"""--mode=recall: trains one-layer variants on associative recall, the lookup of a value by its key.

python -m kgpt_jax.main --mode=recall --variants=vanilla,synthesizer

The task is described in kgpt_jax/train/recall.py.
"""

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("variants",)


def run(command: Command):
    from kgpt_jax.model.variants import each
    from kgpt_jax.train.recall import KEYS, TEXTS, recall

    config = command.config()
    print(f"{'variant':<30}{'right':>8}   of {TEXTS * KEYS:,}; guessing gives {1 / KEYS:.1%}")
    for cfg in each(config.model, command.variants()):
        try:
            print(f"{cfg.variant:<30}{recall(cfg, seed=config.seed):>8.1%}", flush=True)
        except UserError as error:  # the variant needs more layers, or an option does not fit short texts
            print(f"{cfg.variant:<30}{'-':>8}   {error} (this task has one layer and {2 * KEYS} symbols)")

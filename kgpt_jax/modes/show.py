"""--mode=show: prints pretraining examples, the inputs x above the targets y.

    python -m kgpt_jax.main --mode=show --objective=entity_span

does what the course's `dataset.py charcorruption` and `dataset.py namedata` do.
"""

from absl import flags

from kgpt_jax.modes.command import Command

SHARED = ()


def define_flags(values: flags.FlagValues):
    flags.DEFINE_integer("num_samples", 4, "Number of examples.", lower_bound=1, flag_values=values)


def run(command: Command):
    import numpy as np

    from kgpt_jax.data import corpus
    from kgpt_jax.data.mixture import weights
    from kgpt_jax.data.stage_data import load_stage_data, recipe_of
    from kgpt_jax.data.vocab import Vocab

    config = command.config()
    vocab = Vocab.of(corpus.load_documents(config.data).characters)
    chunks = load_stage_data(config, "pretrain", vocab).chunks
    rng = np.random.default_rng((config.seed, 0))
    examples, n_examples = chunks.make(0, 0)(rng), chunks.sizes[0][0]
    mixed = len(weights(recipe_of(config, "pretrain"))) > 1
    order = rng.permutation(n_examples) if mixed else range(n_examples)  # a mixture's questions come last
    for i in order[: command.flags.num_samples]:
        print(f"x: {vocab.decode(examples.x_NT[i])}\ny: {vocab.decode(examples.y_NT[i])}")

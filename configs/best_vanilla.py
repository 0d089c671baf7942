"""The recipe of configs/best.py for learned positions.

python -m kgpt_jax.main --mode=pretrain --config=configs/best_vanilla.py --variant=vanilla \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv --workdir=runs/best_1 \
    --seed=1 --config.data.n_validation=200

Then the same with --mode=finetune and --mode=evaluate. On the last 200 training pairs, which n_validation
holds out, the model answers 152 right, 76.0 % (95 % interval 69.6 to 81.4; one seed), after two hours on one
core of an EPYC server with AVX-512 BF16, whose other core was busy too. Without n_validation, all pairs are
trained on.

3,323,392 parameters. `preceded` is meant for learned positions most of all: it places texts behind other
texts, so that the model meets names at every position that they have in questions.
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    return override(load_recipe("configs/best.py"), {"model.variant": "vanilla"})

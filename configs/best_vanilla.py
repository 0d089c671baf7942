"""The recipe of configs/speedrun.py for learned positions: a model learns the documents by heart and recites.

python -m kgpt_jax.main --mode=pretrain --config=best_vanilla --variant=vanilla --seed=1 \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv --workdir=runs/speedrun \
    --config.data.n_validation=600
python -m kgpt_jax.main --mode=evaluate --recite --reading_params_path=runs/speedrun/vanilla/pretrain

Of 397 held-out questions, the models of three seeds answer 90.6 % right (docs/speedrun.md, other variants).
Without reciting, `--config=best --variant=vanilla` answers 76.0 % of 200 other questions right, after two
hours (docs/accuracy.md).
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    return override(load_recipe("configs/speedrun.py"), {"model.variant": "vanilla"})

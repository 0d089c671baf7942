"""The recipe of configs/speedrun.py for learned positions: a model learns the documents by heart and recites.

python -m kgpt_jax.main --mode=pretrain --config=best_vanilla --variant=vanilla --seed=1 \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv --workdir=runs/best_1 \
    --config.data.n_validation=600
python -m kgpt_jax.main --mode=evaluate --recite --reading_params_path=runs/best_1/vanilla/pretrain

`n_validation` holds out the last 600 training pairs. Of 397 of these, the model answers right:

    seed 1   360   90.7 % (95 % interval 87.4 to 93.2)
    seed 2   360   90.7 % (87.4 to 93.2)
    seed 3   359   90.4 % (87.1 to 92.9)
    mean           90.6 % (90.2 to 91.0)

docs/speedrun.md has the rules and the hardware. The model has 3,323,392 parameters.

Without reciting, `--config=best --variant=vanilla` answers 76.0 % of 200 other questions right, after two
hours (docs/accuracy.md).
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    return override(load_recipe("configs/speedrun.py"), {"model.variant": "vanilla"})

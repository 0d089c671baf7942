"""The recipe of configs/speedrun.py for the synthesizer: it learns the documents by heart and recites them.

python -m kgpt_jax.main --mode=pretrain --config=best_synthesizer --variant=synthesizer --seed=1 \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv --workdir=runs/best_1 \
    --config.data.n_validation=600
python -m kgpt_jax.main --mode=evaluate --recite --reading_params_path=runs/best_1/synthesizer/pretrain

`n_validation` holds out the last 600 training pairs. Of 397 of these, the model answers right:

    seed 1   362   91.2 % (95 % interval 88.0 to 93.6)
    seed 2   363   91.4 % (88.3 to 93.8)
    seed 3   359   90.4 % (87.1 to 92.9)
    mean           91.0 % (89.7 to 92.3)

docs/speedrun.md has the rules and the hardware. The model has 3,076,988 parameters.

Without reciting, a synthesizer answers 41.0 % of 200 other questions right, after two hours
(docs/accuracy.md).
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    return override(load_recipe("configs/speedrun.py"), {"model.variant": "synthesizer"})

"""The recipe of configs/best.py for models that recite: finetuning reads the documents again, too.

python -m kgpt_jax.main --mode=pretrain --config=best_recite --variant=rope --seed=1 --workdir=runs/recite_1 \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv \
    --config.data.n_validation=600

Then run the same command with --mode=finetune, and with --mode=evaluate --recite. docs/recite.md has the
accuracy. Pretraining is that of configs/best.py, so its runs can be finetuned by this recipe.
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    changes = {"finetune.objective": "question_answer=0.5,whole_line=0.5"}
    return override(load_recipe("configs/best.py"), changes)

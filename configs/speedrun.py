"""The recipe for a high accuracy soon: a model learns the documents by heart, and recites them to answer.

python -m kgpt_jax.main --mode=pretrain --config=speedrun --variant=rope --seed=1 --workdir=runs/speedrun \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv \
    --config.data.n_validation=600
python -m kgpt_jax.main --mode=evaluate --recite --reading_params_path=runs/speedrun/rope/pretrain

It is not finetuned: docs/recite.md says how the answer is read. docs/speedrun.md has accuracy and time.

To answer at once, the model is finetuned on the answers that it recites:

python -m kgpt_jax.main --mode=distill --recite --seed=1 --workdir=runs/speedrun \
    --reading_params_path=runs/speedrun/rope/pretrain --student_params_path=runs/speedrun/rope/pretrain
python -m kgpt_jax.main --mode=evaluate --reading_params_path=runs/speedrun/rope/distill
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    changes = {
        "pretrain.objective": "whole_line",
        "pretrain.preceded": 0.0,  # to recite, a model begins at the first position
        "pretrain.epochs": 16,
        "pretrain.batch_size": 128,
        "pretrain.warmup_tokens": 200_000,
        "pretrain.decay_from": 0.4,  # most is learned while the rate decays
        # A model that only recites has much to learn about questions.
        "finetune.epochs": 10,
        "finetune.batch_size": 32,
        "finetune.learning_rate": 1e-3,
    }
    return override(load_recipe("configs/best.py"), changes)

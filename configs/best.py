"""Made for accuracy on the course's data, with as many parameters: RoPE, and what README's ablation is about.

python -m kgpt_jax.main --mode=pretrain --config=configs/best.py --variant=rope --seed=1 \
    --pretrain_corpus_path=wiki.txt --finetune_corpus_path=birth_places_train.tsv --workdir=runs/best_1 \
    --config.data.n_validation=200

and the same with finetune and evaluate: of the last 200 training pairs, kept from training, 155 are answered
right, 77.5 % (71.2 to 82.7); 162 with seed 2, 81.0 % (75.0 to 85.8), and 150 with seed 3, 75.0 % (68.6 to
80.5); the mean of the three is 77.8 % (70.3 to 85.3). Two hours on one core of an EPYC server with AVX-512
BF16, whose other core was busy too. Without n_validation all pairs are trained on, and --eval_corpus_path is
asked about. README has what a vote adds to this, and a model that learns from it.

3,290,624 parameters. Whatever is an answer to some training question is masked wherever it stands, often with
nothing but the name left, and names stand anywhere in a text, as they do in questions. More finetuning is
worse: 74.5 % with --config.finetune.epochs=20 --config.finetune.learning_rate=5e-4, 63.0 % with as many at
1e-3, with seed 1. The same 200 chose among these three.
"""

from kgpt_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(variant="rope", dropout=0.0, products="auto"),
        # The course's files have people of the same name, some of them in two files.
        data=DataConfig(skip_learned=True),
        pretrain=TrainConfig(
            objective="answer_span=0.6,entity_span=0.15,whole_line=0.15,span_corruption=0.1",
            preceded=0.5,
            epochs=240,
            batch_size=256,
            learning_rate=3e-3,
            muon_learning_rate=0.02,
            weight_decay=0.01,
            warmup_tokens=1_500_000,
            schedule="wsd",
            floor=0.02,
            microbatches=8,  # of texts of like length; 256 at once do not fit into a CPU's cache
            save_every=60,
        ),
        finetune=TrainConfig(epochs=8, batch_size=128, learning_rate=2e-4, warmup_tokens=0, microbatches=8),
        scratch=TrainConfig(epochs=50, batch_size=128, learning_rate=1e-3, warmup_tokens=0, microbatches=8),
    )

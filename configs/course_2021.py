"""The course's hyper-parameters of 2021 to 2023, exactly, for its wiki.txt and birth_places_train.tsv.

python -m kgpt_jax.main --mode=pretrain --config=configs/course_2021.py --variant=vanilla \
    --pretrain_corpus_path=wiki.txt --workdir=runs/course_2021

`final_tokens` is 200 epochs of wiki.txt's 2,938 documents. The course does not clip its cosine, so over 650
epochs the learning rate falls, rises and falls again. Texts have 128 characters, of which 127 are read.

Expect about 0.9 s per update on two cores of an EPYC server: 4 hours for the 14,950 updates of pretraining.
We have not run it to the end. After 3,400 updates (148 epochs, one seed, --config.model.products=bfloat16,
2 h 10 min on one busy core of a Xeon) and finetuning with --config.data.n_validation=200, the model answers 4
of 198 questions right, 2.0 % (95 % interval 0.8 to 5.1). Always answering London is right for 6.6 % of them.
The handout asks for 10 % from vanilla and 5 % from the synthesizer.
"""

from kgpt_jax.config import Config, DataConfig, ModelConfig, TrainConfig

WIKI_TOKENS = 2938 * 128


def train_config(**changes) -> TrainConfig:
    return TrainConfig(
        **{
            "warmup_tokens": 512 * 20,
            "final_tokens": 200 * WIKI_TOKENS,
            "first_step_at_peak": True,
            "group_by_length": False,
            "save_every": 115,
        }
        | changes
    )


def get_config() -> Config:
    finetune = {"batch_size": 256, "learning_rate": 6e-4}
    return Config(
        model=ModelConfig(seq_len=127),
        # Some names occur more than once in the course's files, and some in two of them.
        data=DataConfig(ascii_pairs=True, skip_learned=True),
        # The course's loader keeps the order of the file in every epoch.
        pretrain=train_config(epochs=650, batch_size=128, learning_rate=6e-3, shuffle=False),
        finetune=train_config(epochs=10, shuffle=False, **finetune),
        scratch=train_config(epochs=75, shuffle=False, **finetune),
    )

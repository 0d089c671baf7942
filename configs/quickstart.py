"""The default: made-up people, a small model, minutes on a laptop's CPU.

python -m kgpt_jax.main --mode=all --variant=vanilla
"""

from kgpt_jax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    finetune = TrainConfig(epochs=20, batch_size=64, learning_rate=1e-3, warmup_tokens=0)
    return Config(
        model=ModelConfig(n_layer=2, n_head=4, n_embd=128, dropout=0.0),
        pretrain=TrainConfig(epochs=40, batch_size=64, learning_rate=3e-3, warmup_tokens=200_000),
        finetune=finetune,
        scratch=finetune,
    )

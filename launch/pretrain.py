"""python -m launch.pretrain --platform=cpu|gpu|tpu [flags of kgpt_jax.main]"""

from launch.stage import start

if __name__ == "__main__":
    start("pretrain")

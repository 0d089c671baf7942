"""python -m launch.finetune --platform=cpu|gpu|tpu [flags of kgpt_jax.main]"""

from launch.stage import start

if __name__ == "__main__":
    start("finetune")

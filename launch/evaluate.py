"""python -m launch.evaluate --platform=cpu|gpu|tpu [flags of kgpt_jax.main]"""

from launch.stage import start

if __name__ == "__main__":
    start("evaluate")

"""python -m launch.finetune --platform=cpu|gpu|tpu [flags of --mode=finetune]; --help lists all."""

from launch.stage import start

if __name__ == "__main__":
    start("finetune")

"""python -m launch.pretrain --platform=cpu|gpu|tpu [flags of --mode=pretrain]; --help lists all."""

from launch.stage import start

if __name__ == "__main__":
    start("pretrain")

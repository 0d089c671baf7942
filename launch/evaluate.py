"""python -m launch.evaluate --platform=cpu|gpu|tpu [flags of --mode=evaluate]; --help lists all."""

from launch.stage import start

if __name__ == "__main__":
    start("evaluate")

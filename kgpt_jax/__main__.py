"""The command `kgpt`, which is also `python -m kgpt_jax`."""

from kgpt_jax.main import run as cli

if __name__ == "__main__":
    cli()

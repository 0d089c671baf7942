"""The command `kgpt`, which is also `python -m kgpt_jax`: `kgpt_jax.main` with the environment set first."""

from kgpt_jax.environment import prepare


def cli():
    prepare()  # before JAX is imported
    from kgpt_jax import main

    main.run()


if __name__ == "__main__":
    cli()

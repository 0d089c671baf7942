"""--mode=biographies: writes the made-up people as the course's four files.

python -m kgpt_jax.main --mode=biographies --outputs_path=people

With --config.data.biographies.questions=all --config.data.biographies.n_facts=6 the tables have a question
about each of the six facts.
"""

from pathlib import Path

from kgpt_jax.modes.command import Command

SHARED = ("outputs_path",)


def run(command: Command):
    from kgpt_jax.data import biographies

    people, folder = command.config().data.biographies, Path(command.needed("outputs_path"))
    for path in biographies.write(biographies.generate(people), folder):
        print(f"wrote {path}")

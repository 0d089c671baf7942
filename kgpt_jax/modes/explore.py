"""--mode=explore: measures the claims of the assignment's mathematical questions, and draws them.

    python -m kgpt_jax.main --mode=explore
    python -m kgpt_jax.main --mode=explore --topics=average,two_heads --seed=1

Each topic is measured on random draws, or on the package's own modules, and compared with a closed form or a
quadrature where there is one. `kgpt_jax/exercises/claims_page.py` lists the topics.
"""

from pathlib import Path
from time import perf_counter

from absl import flags

from kgpt_jax.modes.command import Command

SHARED = ("outputs_path",)
FIGURES, PICTURE = "figures of the exercises", "picture of an exercise"


def define_flags(values: flags.FlagValues):
    flags.DEFINE_list("topics", None, "Topics, as in average,two_heads; default: all.", flag_values=values)


def run(command: Command):
    from kgpt_jax.exercises.claims_page import TOPICS, chosen
    from kgpt_jax.exercises.figures import Settings

    topics = chosen(command.flags.topics or list(TOPICS))
    explore(
        topics,
        Settings(seed=command.config().seed),
        Path(command.flags.outputs_path or command.workdir / "explore"),
    )


def explore(topics: list[str], settings, folder: Path):
    """Computes topics, prints a table for each, and writes figures.jsonl and one picture for each topic.

    Args:
      topics: names in `TOPICS`.
      settings: a `Settings`: draws, seed and sizes.
      folder: where the files go.

    Raises:
      UserError: a file cannot be written, or exists and is not our own.
    """
    from kgpt_jax.exercises.claims_page import DPI, TOPICS, draw, json_line, table
    from kgpt_jax.store.outputs import check, write_lines, write_picture

    path = folder / "figures.jsonl"
    pictures = {topic: folder / f"{topic}.png" for topic in topics}
    for output, kind in ((path, FIGURES), *((picture, PICTURE) for picture in pictures.values())):
        check(output, kind)
    began, lines = perf_counter(), []
    for topic in topics:
        started = perf_counter()
        found = TOPICS[topic](settings)
        write_picture(pictures[topic], draw(found), PICTURE, DPI)
        lines += map(json_line, found.figures)
        print(f"{topic}: {found.title}\n{table(found)}\n{perf_counter() - started:.1f} s\n", flush=True)
    write_lines(path, lines, FIGURES)
    many = "s" if len(topics) > 1 else ""
    print(f"wrote {path} and {len(topics)} picture{many} ({perf_counter() - began:.1f} s)")

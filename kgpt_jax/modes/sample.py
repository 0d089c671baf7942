"""--mode=sample: continues a text with a pretrained run, and prints one sample per line.

    python -m kgpt_jax.main --mode=sample --prompt="Ruth Kaplan" --num_samples=3 --temperature=0.5

`sample` in kgpt_jax/answer/decode.py explains where a sample ends.
"""

from absl import flags

from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "checkpoint")


def define_flags(values: flags.FlagValues):
    flags.DEFINE_string("prompt", None, "The text to continue.", flag_values=values)
    flags.DEFINE_integer("num_samples", 4, "Number of samples.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("max_new", 100, "Characters to add, at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "temperature",
        1.0,
        "0 takes the likeliest character; higher values draw more freely.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "top_k",
        0,
        "Draw from this many likeliest characters; 0: from all.",
        lower_bound=0,
        flag_values=values,
    )


def run(command: Command):
    prompt, given = command.needed("prompt"), command.flags
    start = command.start("pretrain")
    config = command.config(start)

    from kgpt_jax.answer.decode import sample

    for text in sample(
        start, config, prompt, given.num_samples, given.max_new, given.temperature, given.top_k
    ):
        print(text)

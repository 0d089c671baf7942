"""The list of all modes. `--mode=NAME` runs `kgpt_jax/modes/NAME.py`.

A mode's file has three things:

    SHARED = ("checkpoint", ...)     names of the flags that it shares with other modes (modes/command.py)
    define_flags(values)             optional: defines the flags that only this mode has
    run(command)                     does the work and prints the results

Files import JAX inside `run`, so that `--help` and errors in flags appear at once.
"""

import importlib
from types import ModuleType
from typing import NamedTuple


class Mode(NamedTuple):
    """What a mode does, in one line for `--help`."""

    about: str
    file: str = ""  # the module's name, if it is not the mode's
    computes: bool = True  # False: it needs no JAX devices


MODES = {
    "pretrain": Mode("trains a model on documents"),
    "finetune": Mode("trains a pretrained model, or a new one, on questions with their answers"),
    "evaluate": Mode("answers the evaluation questions and prints how many answers are right"),
    "ask": Mode("answers your own questions"),
    "serve": Mode("answers your questions on a web page"),
    "teach": Mode("stores an answer to a question, which `ask` and `serve` give from then on"),
    "all": Mode("runs all stages with and without pretraining, and prints one table", "all_stages"),
    "baseline": Mode("scores the answer London on the evaluation questions", computes=False),
    "show": Mode("prints examples of what a model is trained on", computes=False),
    "sample": Mode("continues a text with a pretrained model"),
    "attend": Mode("answers a question and draws the attention weights"),
    "biographies": Mode("writes the made-up people as the course's four files", computes=False),
    "import": Mode("turns a parameter file (the course's .params, .safetensors) into a run", "import_params"),
    "export": Mode("writes a run's parameters for the course's code, or as .safetensors", "export_params"),
    "contents": Mode("lists what a run's folder holds"),
    "costs": Mode("prints parameters and cost of each variant, on paper and as XLA counts"),
    "compare": Mode("trains several variants with several seeds, and prints one table"),
    "recall": Mode("trains one-layer variants to look up pairs in their text"),
    "copies": Mode("measures how many differently worded biographies a fact needs"),
    "ablate": Mode("measures what each part of a recipe is worth"),
    "calibrate": Mode("measures how sure a run may be of its answers"),
    "audit": Mode("asks about people who do not exist, and measures whether a run can tell"),
    "check": Mode("says whether answers to the mathematical questions are right", computes=False),
    "explore": Mode("measures and draws the claims of the mathematical questions"),
    "distill": Mode("trains one model on the answers of several by vote, or of the open-book reader"),
}


def load(mode: str) -> ModuleType:
    """Imports the file of a mode."""
    return importlib.import_module(f"kgpt_jax.modes.{MODES[mode].file or mode}")

"""A small character-level GPT in JAX that learns facts about people and answers questions about them.

The Python API runs the same code as the commands (`python -m kgpt_jax.main --help`):

    import kgpt_jax

    run = kgpt_jax.load("runs/vanilla/finetune")
    print(run.answer("Where was Ruth Kaplan born?"))

or, from the beginning:

    read = kgpt_jax.pretrain("quickstart", workdir="runs")
    run = kgpt_jax.finetune(read)
    print(kgpt_jax.evaluate(run).accuracy)

`import kgpt_jax` and `load` do not import JAX. It starts when parameters are first needed. The API prints
nothing. To see the messages that the commands print, show the logger "kgpt_jax":

    logging.basicConfig(level=logging.INFO, format="%(message)s")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kgpt_jax.answer.record import Answer
    from kgpt_jax.answer.score import Score
    from kgpt_jax.api import Run, evaluate, finetune, load, pretrain
    from kgpt_jax.config import Config, UserError, load_recipe, override

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Config",
    "Run",
    "Score",
    "UserError",
    "evaluate",
    "finetune",
    "load",
    "load_recipe",
    "override",
    "pretrain",
]

_MODULES = {
    "api": ["Run", "evaluate", "finetune", "load", "pretrain"],
    "config": ["Config", "UserError", "load_recipe", "override"],
    "answer.record": ["Answer"],
    "answer.score": ["Score"],
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"kgpt_jax.{module}"), name)
    raise AttributeError(f"module 'kgpt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

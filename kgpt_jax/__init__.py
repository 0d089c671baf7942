"""A small character-level GPT that learns facts about people and is asked for them, in JAX.

The Python API takes the same code path as the commands (`python -m kgpt_jax.main --help`):

    import kgpt_jax

    run = kgpt_jax.load("runs/vanilla/finetune")
    print(run.answer("Where was Ruth Kaplan born?"))

or, from the beginning:

    read = kgpt_jax.pretrain("quickstart", workdir="runs")
    run = kgpt_jax.finetune(read)
    print(kgpt_jax.evaluate(run).accuracy)

`import kgpt_jax` does not import JAX, and neither does `load`: JAX starts when parameters are needed. Nothing
is printed. The logger "kgpt_jax" has what the commands show:

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

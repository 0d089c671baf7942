"""Translates the course's own commands into this package's flags.

    python -m kgpt_jax.main finetune vanilla wiki.txt --writing_params_path vanilla.model.params ...

replaces `python src/run.py` with the same words. The later years' spelling, `--function=finetune`, works too.
`charcorruption` and `namedata` replace `python src/dataset.py`, and `london_baseline` the script of that
name.
"""

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import HELP

SCRATCH = "none"  # --reading_params_path of a run that starts from nothing
RECIPE = "configs/course_2024.py"  # for a command that trains a new model and has no --config
FUNCTIONS = ("pretrain", "finetune", "evaluate")
NEEDED = {
    "pretrain": "writing_params_path",
    "finetune": "writing_params_path",
    "evaluate": "reading_params_path",
}
# The objective that shows a dataset's examples, the flag of its file, and the file's name in the course.
DATASETS = {
    "charcorruption": ("span_corruption", "pretrain_corpus_path", "wiki.txt"),
    "namedata": ("question_answer", "finetune_corpus_path", "birth_places_train.tsv"),
}
LONDON = "london_baseline"
LEFT_OUT = "tb_expt_name"  # names the course's TensorBoard log; has no meaning here


def translate(words: list[str]) -> list[str] | None:
    """Returns this package's flags for a command of the course, or None for any other command.

    >>> translate(["evaluate", "vanilla", "wiki.txt", "--reading_params_path", "vanilla.model.params"])[2:]
    ['--pretrain_corpus_path=wiki.txt', '--reading_params_path=vanilla.model.params']
    >>> translate(["--mode=evaluate"])

    Raises:
      UserError: the command has an unknown function or an extra word, or lacks a flag that the course needs.
    """
    names, flags = words_and_flags(words)
    if extra := names[1:] if names[:1] == [LONDON] else names[2:] if names and names[0] in DATASETS else []:
        raise UserError(f"unexpected argument {extra[0]!r}: give files by flags, as --eval_corpus_path=FILE")
    if names and names[0] == LONDON:
        return ["--mode=baseline", *spelled(flags)]
    if names and names[0] in DATASETS:
        objective, flag, file = DATASETS[names[0]]
        path = names[1] if len(names) > 1 else file
        return ["--mode=show", f"--objective={objective}", f"--{flag}={path}", *spelled(flags)]
    given = dict(flags)
    if "mode" in given or not (names and names[0] in FUNCTIONS or "function" in given):
        return None
    for flag in ("function", "variant", "pretrain_corpus_path"):
        if flag not in given and names:
            given = {flag: names.pop(0)} | given
    if names:
        raise UserError(
            f"unexpected argument {names[0]!r}: the course's form is MODE VARIANT CORPUS [--flags]"
        )
    function = given.pop("function")
    if function not in FUNCTIONS:
        raise UserError(f"--function={function}: choose from {', '.join(FUNCTIONS)}")
    if NEEDED[function] not in given and not given.keys() & HELP:
        raise UserError(f"{function} needs --{NEEDED[function]}, as in the course")
    given.pop(LEFT_OUT, None)
    first = {name: given.pop(name) for name in ("variant", "pretrain_corpus_path") if name in given}
    if function == "finetune" and not given.get("reading_params_path"):
        given.pop("reading_params_path", None)  # an empty one
        given = {"reading_params_path": SCRATCH} | given
    fresh = function == "pretrain" or given.get("reading_params_path") == SCRATCH
    recipe = {"config": RECIPE} if fresh and "config" not in given else {}
    return [f"--mode={function}", *spelled((first | recipe | given).items())]


def words_and_flags(words: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Separates words from flags: returns the words and a list of (flag, value). A missing value is None.

    >>> words_and_flags(["a", "--b", "c", "--d=e", "--f"])
    (['a'], [('b', 'c'), ('d', 'e'), ('f', None)])
    """
    names, flags, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            names.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("-") else None
        flags.append((name, value))
    return names, flags


def spelled(flags) -> list[str]:
    """Returns (flag, value) pairs as words of a command line."""
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in flags]

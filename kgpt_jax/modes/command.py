"""Parses a command line: a mode's flags, its help, and the config that the flags ask for.

    command = parse(["--mode=sample", "--prompt=Ada", "--temperature=0"])
    command.flags.prompt, command.config(run)

This file defines the flags that several modes share. It does not import JAX.
"""

import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from kgpt_jax import modes
from kgpt_jax.answer.record import LOOK_UP, NEVER
from kgpt_jax.config import Config, UserError, check_local, leaves, load_recipe, override

if TYPE_CHECKING:
    from kgpt_jax.store.folder import Run

QUICKSTART = "configs/quickstart.py"
USAGE = "python -m kgpt_jax.main --mode="
HELP = ("help", "helpshort", "helpfull")
DECIDED = ("model.vocab_size", "model.pattern_seed")  # fields that follow from the corpus and the seed


class Flag(NamedTuple):
    """How to define a flag. `field` is the config field that the flag is short for, "" if there is none."""

    define: Callable
    default: object
    help: str
    field: str = ""


COMMON = {
    "config": Flag(
        flags.DEFINE_string, None, f"Recipe; default: the config of the run read, or {QUICKSTART}."
    ),
    "variant": Flag(
        flags.DEFINE_string,
        None,
        "Attention variant; default: that of the run read, or vanilla.",
        "model.variant",
    ),
    "seed": Flag(
        flags.DEFINE_integer, None, "Decides initial parameters, dropout, data order and draws.", "seed"
    ),
    "num_seeds": Flag(
        flags.DEFINE_integer, None, "Number of models to train at once; they answer by vote.", "n_seeds"
    ),
    "workdir": Flag(flags.DEFINE_string, "runs", "A run lives in <workdir>/<variant>/<stage>/."),
    "pretrain_corpus_path": Flag(
        flags.DEFINE_string, None, "Documents, one per line.", "data.pretrain_corpus_path"
    ),
    "finetune_corpus_path": Flag(
        flags.DEFINE_string, None, "Lines of question, tab, answer.", "data.finetune_corpus_path"
    ),
    "eval_corpus_path": Flag(
        flags.DEFINE_string, None, "Questions, with or without answers.", "data.eval_corpus_path"
    ),
    "objective": Flag(
        flags.DEFINE_string,
        None,
        "Pretraining objective, or a mixture such as 'span_corruption=0.7,whole_line=0.3'.",
        "pretrain.objective",
    ),
    "pretrain_lr": Flag(
        flags.DEFINE_float, None, "Peak learning rate of pretraining.", "pretrain.learning_rate"
    ),
    "finetune_lr": Flag(
        flags.DEFINE_float, None, "Peak learning rate of finetuning.", "finetune.learning_rate"
    ),
    "bottleneck_dim": Flag(
        flags.DEFINE_integer, None, "Latents of the perceivers.", "model.options.bottleneck_dim"
    ),
}
SHARED = {
    "reading_params_path": Flag(
        flags.DEFINE_string, None, "Run to read; most modes default to the newest run of the stage before."
    ),
    "writing_params_path": Flag(
        flags.DEFINE_string, None, "Folder of the new run; a training's default: see --workdir."
    ),
    "outputs_path": Flag(flags.DEFINE_string, None, "File or folder to write."),
    "checkpoint": Flag(
        flags.DEFINE_string, "newest", "Checkpoint to read: newest, best (least loss), or an update's number."
    ),
    "start_anew": Flag(
        flags.DEFINE_boolean,
        False,
        "Move the files in the run's folder aside, and train from the first update.",
    ),
    "tensorboard": Flag(flags.DEFINE_boolean, False, "Write event files for TensorBoard too."),
    "voters": Flag(flags.DEFINE_list, [], "Further runs that vote together with the run read."),
    "variants": Flag(flags.DEFINE_list, None, "Variants; default: --variant, or all."),
    "seeds": Flag(flags.DEFINE_list, "1,2,3,4,5", "Seeds, one training each."),
    "wrong_at_most": Flag(
        flags.DEFINE_float, None, "Withhold answers, so that at most this share of those given is wrong."
    ),
    "surely": Flag(flags.DEFINE_float, 0.9, "The probability with which --wrong_at_most is kept."),
    "one_of": Flag(
        flags.DEFINE_float, None, "Give a set of answers that has the right one with this probability."
    ),
    "look_up": Flag(
        lambda name, default, help, **values: flags.DEFINE_enum(name, default, LOOK_UP, help, **values),
        NEVER,
        "Look answers up in the documents: never, if the model is unsure, or always.",
    ),
    "recite": Flag(
        flags.DEFINE_boolean,
        False,
        "Let the model recite what it has read about the name, and read the answer in that.",
    ),
    "question": Flag(flags.DEFINE_multi_string, None, "The question to answer."),
}
PATHS = "config workdir reading_params_path writing_params_path outputs_path voters student_params_path"
DEFINE: dict[type, Callable] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def parse(words: list[str]) -> "Command | str":
    """Returns the parsed command, or the text to print if the words ask for help.

    Raises:
      UserError: a flag is unknown, belongs to another mode or has a wrong value, or a mode is missing.
    """
    mode, asked = _value_of("mode", words), [word.lstrip("-") for word in words if asks_help(word)]
    if mode is None and asked:
        return _all_modes()
    if mode not in modes.MODES:
        given = "--mode is missing" if mode is None else f"--mode={mode} is no mode"
        near = difflib.get_close_matches(mode or "", modes.MODES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{given}: {hint}choose from {', '.join(modes.MODES)}")
    values = defined(mode)
    try:
        rest = values([USAGE, *(word for word in words if not asks_help(word))])
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, mode, values)) from None
    except (flags.Error, ValueError) as error:  # absl raises a ValueError for --noFLAG=value
        raise UserError(str(error)) from None
    if values.mode != mode:
        raise UserError(f"--mode is given as {mode} and as {values.mode}: give it once")
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: flags begin with --")
    command = Command(mode, values)
    if asked:
        return _help(command, full="helpfull" in asked)
    for name in PATHS.split():
        value = values[name].value if name in values else None
        for path in value if isinstance(value, list) else [value or ""]:
            check_local(f"--{name}", path)
    return command


def needs_jax(words: list[str]) -> bool:
    """Returns whether a command line uses JAX. Help does not, and neither do modes without `computes`.

    >>> needs_jax(["--mode=pretrain"]), needs_jax(["--mode=pretrain", "--help"]), needs_jax(["--mode=show"])
    (True, False, False)
    """
    mode = _value_of("mode", words)
    light = mode in modes.MODES and not modes.MODES[mode].computes
    return not light and not any(map(asks_help, words))


def asks_help(word: str) -> bool:
    """Returns whether a word of a command line asks for help."""
    return word.startswith("-") and word.lstrip("-") in HELP


def defined(mode: str) -> flags.FlagValues:
    """Returns the unparsed flags of a mode: its own, its shared ones, the common ones, and config fields."""
    values, file = flags.FlagValues(), modes.load(mode)
    flags.DEFINE_string("mode", None, "What to do.", flag_values=values)
    for name, flag in (COMMON | {name: SHARED[name] for name in file.SHARED}).items():
        flag.define(name, flag.default, flag.help, flag_values=values)
    if hasattr(file, "define_flags"):
        file.define_flags(values)
    for name, value in leaves().items():
        if name not in DECIDED:
            define = DEFINE.get(type(value), flags.DEFINE_boolean)
            define(f"config.{name}", None, _field_help().get(name, ""), flag_values=values)
    return values


class Command:
    """A mode with its parsed flags, and the config that they ask for."""

    def __init__(self, mode: str, values: flags.FlagValues):
        self.mode, self.flags = mode, values

    @property
    def workdir(self) -> Path:
        return Path(self.flags.workdir)

    def needed(self, name: str) -> Any:
        """Returns the value of a required flag. Raises a UserError if the flag is missing."""
        if not self.flags[name].value:
            raise UserError(f"--mode={self.mode} needs --{name}")
        return self.flags[name].value

    def whole_numbers(self, name: str) -> list[int]:
        """Returns the numbers of a flag such as --seeds=1,2,3. Raises a UserError for anything else."""
        given = self.flags[name].value or []
        if not given or not all(part.isdecimal() for part in given):
            raise UserError(f"--{name}={','.join(given)}: give whole numbers, as in 1,2,3")
        if len(set(map(int, given))) < len(given):
            raise UserError(f"--{name}={','.join(given)}: give each number once")
        return [int(part) for part in given]

    def seeds(self, *others: str) -> list[int]:
        """Returns the numbers in --seeds.

        Args:
          others: flags besides --seed that would have no effect beside --seeds.

        Raises:
          UserError: such a flag is given, or --seeds is not a list of different whole numbers.
        """
        for name in ("seed", "config.seed", *others):
            if self.flags[name].present:
                raise UserError(f"--mode={self.mode} takes its seeds from --seeds: leave out --{name}")
        return self.whole_numbers("seeds")

    def variants(self) -> list[str]:
        """Returns the names in --variants, or else the one in --variant, or else all variants."""
        from kgpt_jax.model.variants import VARIANTS

        one = self.flags.variant or self.flags["config.model.variant"].value
        return list(dict.fromkeys(self.flags.variants or ([one] if one else VARIANTS)))

    def start(self, stage: str, of_variant: bool = True) -> "Run":
        """Returns the run in --reading_params_path or, without this flag, the newest run below --workdir.

        Args:
          stage: pretrain or finetune; the newest run of this stage is taken.
          of_variant: whether to look only at runs of --variant, if that flag is given.

        Raises:
          UserError: there is no such run, or it cannot be read.
        """
        from kgpt_jax.store.folder import holds_run, read_run

        path = self.flags.reading_params_path
        if not path:
            variant = self.flags.variant or self.flags["config.model.variant"].value
            one = variant if variant and of_variant else "*"
            folders = [self.workdir / one / stage] if one != "*" else self.workdir.glob(f"*/{stage}")
            runs = [run for run in folders if holds_run(run)]
            if not runs:
                raise UserError(
                    f"there is no run in {self.workdir / one.replace('*', '<variant>') / stage}: run "
                    f"--mode={stage} first, or give --workdir or --reading_params_path"
                )
            path = max(runs, key=_trained)
        return read_run(path, self.flags.checkpoint if "checkpoint" in self.flags else "newest")

    def new_run(self, config: Config, stage: str, *needed: "Run | None") -> Path:
        """Returns the folder of the run to train.

        Raises:
          UserError: --start_anew would move a run that is `needed`: the start or a teacher of training.
        """
        folder = Path(self.flags.writing_params_path or self.workdir / config.model.variant / stage)
        if self.flags.start_anew and any(run and folder.resolve() == run.folder.resolve() for run in needed):
            raise UserError(
                f"training needs the run in {folder}, which --start_anew would move away: give another "
                "--writing_params_path"
            )
        return folder

    def config(self, start: "Run | None" = None) -> Config:
        """Returns the recipe in --config, or else the config of `start`, or else quickstart, plus the flags.

        The variant comes from the flags, or else from `start`, or else from the recipe. If the recipe names
        no documents, those of `start` are used.
        """
        if self.flags.config is None and start is not None:
            config = start.config
        else:
            config = load_recipe(self.flags.config or QUICKSTART)
            if start is not None and not config.data.pretrain_corpus_path:
                there = start.config.data
                documents = {name: getattr(there, name) for name in ("pretrain_corpus_path", "biographies")}
                config = dataclasses.replace(config, data=dataclasses.replace(config.data, **documents))
        given = {}
        for name in leaves():
            if name not in DECIDED and (value := self.flags[f"config.{name}"].value) is not None:
                given[name] = value
        for name, flag in COMMON.items():
            if flag.field and (value := self.flags[name].value) is not None:
                if given.get(flag.field, value) != value:
                    raise UserError(f"--{name} and --config.{flag.field} differ: give one of them")
                given[flag.field] = value
        model = config.model if start is None else start.config.model
        variant = given.get("model.variant", model.variant)
        options = model.options if variant == model.variant else ""  # options belong to their variant
        changes = {"model.variant": variant, "model.options": options} | given
        # A flag for finetuning applies to finetuning from scratch too, unless that stage has its own flag.
        scratch = {
            name.replace("finetune.", "scratch.", 1): value
            for name, value in changes.items()
            if name.startswith("finetune.")
        }
        return override(config, scratch | changes)


def _trained(folder: Path) -> float:
    """Returns when a run was last trained, in seconds since 1970. Evaluations write other files into it."""
    files = (folder / name for name in ("config.json", "run.json", "metrics.jsonl"))
    return max((file.stat().st_mtime for file in files if file.exists()), default=0)


def _value_of(name: str, words: list[str]) -> str | None:
    """Returns the value of a flag in raw words, written --name=value or --name value; None if absent."""
    for word, following in zip(words, [*words[1:], None]):
        flag, equals, value = word.partition("=")
        if flag.lstrip("-") == name and flag.startswith("-"):
            return value if equals else following
    return None


def _unknown(name: str, mode: str, values: flags.FlagValues) -> str:
    """Returns the error message for an unknown flag: which modes have it, or a flag with a similar name."""
    owners = [other for other in modes.MODES if other != mode and name in defined(other)]
    if owners:
        return f"--mode={mode} has no flag --{name}, which belongs to {', '.join(owners)}: leave it out"
    fields = name.startswith("config.")
    listed = sorted(flag for flag in values if flag.startswith("config.") == fields)
    near = difflib.get_close_matches(name, listed, n=1)
    hint = f"did you mean --{near[0]}? " if near else ""
    option = name.removeprefix("config.model.")
    if option != name:
        hint += f"a variant's own setting is given as --config.model.options={option}=NUMBER; "
    return f"unknown flag --{name}: {hint}choose from {', '.join(listed)}"


def _all_modes() -> str:
    width = max(map(len, modes.MODES))
    lines = [f"  {name:<{width}}  {mode.about}" for name, mode in modes.MODES.items()]
    return "\n".join(
        [
            f"usage: {USAGE}MODE [flags]",
            "",
            "A small GPT that learns facts about people from biographies, and is asked for them.",
            "",
            *lines,
            "",
            f"{USAGE}MODE --help lists a mode's flags; start with --mode=all.",
        ]
    )


def _help(command: Command, full: bool) -> str:
    """Returns the flags of one mode: its own, the common ones, and last the config fields."""
    mode, values = command.mode, command.flags
    own = [
        name for name in values if name not in COMMON and not name.startswith("config.") and name != "mode"
    ]
    lines = [f"usage: {USAGE}{mode} [flags]", "", f"{mode} {modes.MODES[mode].about}.", ""]
    for title, names in ((f"flags of --mode={mode}", own), ("flags of every mode", COMMON)):
        if names:
            lines += [f"{title}:", *(_flag_line(values[name]) for name in names), ""]
    recipe = values.config or QUICKSTART
    fields = {name: value for name, value in leaves(load_recipe(recipe)).items() if name not in DECIDED}
    if full:
        lines.append(f"config fields, with their values in {recipe}:")
        for name, value in fields.items():
            text = f"--config.{name}={value!r}  {_field_help().get(name, '')}"
            lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      ")
    else:
        lines.append(f"config fields (--config.FIELD=VALUE), with their values in {recipe};")
        lines.append("--helpfull says what each is:")
        text = " ".join(f"{name}={value!r}" for name, value in fields.items())
        lines += textwrap.wrap(
            text,
            100,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _flag_line(flag: flags.Flag) -> str:
    default = "" if flag.default in (None, [], False) else f" (default: {flag.default_as_str})"
    text = f"--{flag.name}  {flag.help}{default}"
    return "\n".join(textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      "))


@cache
def _field_help(kind: type = Config, prefix: str = "") -> dict[str, str]:
    """Returns the help of each config field: the comment after the field in config.py."""
    help_of: dict[str, str] = {}
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(kind), re.MULTILINE))
    for field in dataclasses.fields(kind):
        section: Any = type(field.default)
        nested = dataclasses.is_dataclass(section)
        if nested:
            help_of |= _field_help(section, f"{prefix}{field.name}.")
        else:
            help_of[prefix + field.name] = (text := comments.get(field.name, ""))[:1].upper() + text[1:]
    return help_of

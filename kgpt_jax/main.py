"""Pretrain, finetune and evaluate: the command line.

    python -m kgpt_jax.main --mode=all --variant=vanilla

is the whole job on made-up people; `--helpshort` lists every flag. The course's own commands work as they are
(`kgpt_jax/course.py`).
This is the one reader of flags: past `main` there are only a frozen `Config` and paths.
"""

if __name__ == "__main__":  # before JAX is imported
    from kgpt_jax.environment import prepare

    prepare()

import difflib
import errno
import os
import re
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
from absl import app, flags, logging

from kgpt_jax import course, stages
from kgpt_jax.config import Config, UserError, check_local, leaves, load_recipe, override
from kgpt_jax.data.objectives import OBJECTIVES
from kgpt_jax.distill import distill
from kgpt_jax.environment import find_devices
from kgpt_jax.explore.ablation import ablate
from kgpt_jax.explore.attend import attend
from kgpt_jax.explore.compare import compare
from kgpt_jax.explore.contents import list_run
from kgpt_jax.explore.copies import compare_copies
from kgpt_jax.explore.costs import inspect
from kgpt_jax.explore.recall import compare_recall
from kgpt_jax.model.variants import VARIANTS
from kgpt_jax.train.run import Run, holds_run, read_run, set_aside

MODES = (
    "pretrain",
    "finetune",
    "evaluate",
    "all",
    "baseline",
    "show",
    "sample",
    "biographies",
    "import",
    "export",
    "compare",
    "inspect",
    "attend",
    "recall",
    "distill",
    "copies",
    "ablate",
)
STARTS_FROM = {
    "distill": "finetune",
    "finetune": "pretrain",
    "sample": "pretrain",
    "evaluate": "finetune",
    "export": "finetune",
    "attend": "finetune",
}
SEVERAL_VARIANTS = {"compare", "inspect", "recall"}  # that --variants chooses
DISK_TROUBLE = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EIO EACCES EPERM EMFILE".split()
    if hasattr(errno, name)  # Windows lacks some
}
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)  # as JAX says it
CLOSED = 128 + 13  # as shells report SIGPIPE, which Windows lacks
SCRATCH = course.SCRATCH  # --reading_params_path=none finetunes from scratch
QUICKSTART = "configs/quickstart.py"

_MODE = flags.DEFINE_enum("mode", None, MODES, "What to do.", required=True)
_VARIANT = flags.DEFINE_enum(
    "variant", None, list(VARIANTS), "Attention; default: vanilla, or that of the run started from."
)
_CONFIG = flags.DEFINE_string(
    "config", None, f"Recipe file; default: that of the run read from, or {QUICKSTART}."
)
_SEED = flags.DEFINE_integer("seed", None, "Decides initial parameters, dropout, and data order.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Models to train at once; they answer by vote.", lower_bound=1
)
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Runs live in <workdir>/<variant>/<stage>/.")
_READING = flags.DEFINE_string(
    "reading_params_path",
    None,
    f"Run to start from: finetune ({SCRATCH!r} for from scratch), evaluate, distill, sample, attend, export; "
    "import: a .params file. Default: the newest run of the stage before, of --variant if given.",
)
_WRITING = flags.DEFINE_string(
    "writing_params_path", None, "Folder of the new run; default: by --workdir. export: a file."
)
_OUTPUTS = flags.DEFINE_string(
    "outputs_path", None, "evaluate: predictions file. biographies: folder for the files. attend: picture."
)
_PRETRAIN_CORPUS = flags.DEFINE_string("pretrain_corpus_path", None, "Documents, one a line.")
_FINETUNE_CORPUS = flags.DEFINE_string("finetune_corpus_path", None, "question<TAB>answer lines.")
_EVAL_CORPUS = flags.DEFINE_string("eval_corpus_path", None, "Questions, with or without answers.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "newest",
    "Which of the run that is read (distill: the student): newest, best (of least loss), an update's number.",
)
_START_ANEW = flags.DEFINE_boolean(
    "start_anew",
    False,
    "pretrain, finetune, distill: set aside what the new run's folder holds, and begin at the first update.",
)
_PRETRAIN_LR = flags.DEFINE_float("pretrain_lr", None, "Peak learning rate of pretraining.")
_FINETUNE_LR = flags.DEFINE_float("finetune_lr", None, "Peak learning rate of finetuning, from scratch too.")
_OBJECTIVE = flags.DEFINE_string(
    "objective", None, f"Of pretraining, one or a mixture, as in 'a=0.7,b=0.3': {', '.join(OBJECTIVES)}."
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 4, "show, sample: how many.", lower_bound=1)
_PROMPT = flags.DEFINE_string("prompt", None, "sample: the text to continue.")
_MAX_NEW = flags.DEFINE_integer("max_new", 100, "sample: characters to add.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "sample: 0 takes the likeliest character.", lower_bound=0.0
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 0, "sample: draw from this many likeliest; 0: from all.", lower_bound=0
)
_VARIANTS = flags.DEFINE_list(
    "variants", None, "compare, inspect, recall: which; default: --variant, or all."
)
_SEEDS = flags.DEFINE_list(
    "seeds", "1,2,3,4,5", "compare, copies: of people, parameters and order. ablate: of the latter."
)
_LENGTHS = flags.DEFINE_list("lengths", "128,512,2048", "inspect: of texts, in characters.")
_BEAMS = flags.DEFINE_integer(
    "beams", 0, "evaluate: search with so many beams among places only; 0: any text.", lower_bound=0
)
_VOTERS = flags.DEFINE_list("voters", [], "evaluate, distill: more runs, for a vote of all.")
_STUDENT = flags.DEFINE_string(
    "student_params_path", None, "distill: pretrained run to finetune; default: pretrains a new model."
)
_PATHS = (_CONFIG, _WORKDIR, _READING, _WRITING, _OUTPUTS, _VOTERS, _STUDENT)  # corpora: config.py
_QUESTION = flags.DEFINE_string("question", None, "attend: the question to answer.")
_BOTTLENECK_DIM = flags.DEFINE_integer("bottleneck_dim", None, "Latents of the perceivers.")
_TENSORBOARD = flags.DEFINE_boolean("tensorboard", False, "Write event files too.")


def also(name: str) -> str:
    """Returns what the help adds to a field of finetuning: it applies to finetuning from scratch too."""
    return " From scratch too, unless config.scratch says otherwise." if name.startswith("finetune.") else ""


DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
_FIELDS = {
    name: DEFINE.get(type(value), flags.DEFINE_boolean)(
        f"config.{name}", None, f"Recipe field (default of the defaults: {value!r}).{also(name)}"
    )
    for name, value in leaves().items()
    if name not in ("model.vocab_size", "model.pattern_seed")  # corpus and seed decide them
}


def main(_):
    for flag in _PATHS:
        for path in flag.value if isinstance(flag.value, list) else [flag.value or ""]:
            check_local(f"--{flag.name}", path)
    mode, workdir = _MODE.value, Path(_WORKDIR.value)
    start = None
    if mode in STARTS_FROM and (path := find_start(mode, workdir)):
        start = read_run(path, _CHECKPOINT.value)
    student = read_run(_STUDENT.value, _CHECKPOINT.value) if mode == "distill" and _STUDENT.value else None
    config = read_config(start, student)
    root = workdir / config.model.variant

    def new_run(stage: str) -> Path:
        folder = Path(_WRITING.value) if _WRITING.value else root / stage
        if _START_ANEW.value:
            set_aside(folder)
        return folder

    match mode:
        case "pretrain":
            if _READING.value:
                raise UserError("--mode=pretrain starts from nothing: leave out --reading_params_path")
            stages.pretrain(config, new_run("pretrain"), _TENSORBOARD.value)
        case "finetune":
            stage = "finetune" if start else "scratch"
            stages.finetune(config, new_run(stage), start, _TENSORBOARD.value)
        case "evaluate":
            runs = voters(start.folder)
            default = (start.folder if _READING.value else root / "evaluate") / predictions_name(len(runs))
            outputs = Path(_OUTPUTS.value or default)
            stages.evaluate(config, start, outputs, _BEAMS.value, runs[1:])
        case "baseline":
            stages.score_constants(config)
        case "all":
            if _WRITING.value or _READING.value or _OUTPUTS.value:
                raise UserError("--mode=all writes below --workdir: leave out the paths of one run")
            stages.run_all(config, root, _TENSORBOARD.value)
        case "show":
            stages.show(config, _NUM_SAMPLES.value)
        case "sample":
            stages.sample(
                config,
                start,
                needed(_PROMPT),
                _NUM_SAMPLES.value,
                _MAX_NEW.value,
                _TEMPERATURE.value,
                _TOP_K.value,
            )
        case "biographies":
            stages.write_biographies(config, Path(needed(_OUTPUTS)))
        case "import":
            stages.import_params(config, needed(_READING), Path(needed(_WRITING)))
        case "export":
            stages.export_params(config, start, Path(needed(_WRITING)))
        case "compare":
            compare(config, chosen_variants(), whole_numbers(_SEEDS), workdir)
        case "inspect" if _READING.value:
            list_run(Path(_READING.value))
        case "inspect":
            inspect(config, chosen_variants(), whole_numbers(_LENGTHS))
        case "attend":
            picture = Path(_OUTPUTS.value or start.folder / "attention.png")
            attend(config, start, needed(_QUESTION), picture)
        case "distill":
            distill(config, new_run("distill"), voters(start.folder), student, _TENSORBOARD.value)
        case "copies":
            compare_copies(config, whole_numbers(_SEEDS), workdir)
        case "ablate":
            ablate(config, whole_numbers(_SEEDS), workdir)
        case "recall":
            compare_recall(config, chosen_variants())


def predictions_name(n_runs: int) -> str:
    """Returns the default name of a predictions file; each kind of prediction has its own."""
    beams = f"_{_BEAMS.value}_beams" if _BEAMS.value else ""
    return f"predictions{beams}{f'_of_{n_runs}_runs' if n_runs > 1 else ''}.txt"


def find_start(mode: str, workdir: Path) -> Path | None:
    """Returns the run to start from: the one that is named, or the newest of the stage before."""
    if _READING.value:
        return None if mode == "finetune" and _READING.value == SCRATCH else Path(_READING.value)
    stage = STARTS_FROM[mode]
    # In distilling --variant is the student's, whatever its teachers are.
    variants = [_VARIANT.value] if _VARIANT.value and mode != "distill" else VARIANTS
    runs = [workdir / variant / stage for variant in variants]
    there = [run for run in runs if holds_run(run)]
    if not there:
        one = variants[0] if len(variants) == 1 else "<variant>"
        raise UserError(
            f"there is no run in {workdir / one / stage}: run --mode={stage} "
            "first, or give --workdir or --reading_params_path"
        )
    return max(there, key=lambda run: max((path.stat().st_mtime for path in run.glob("*.json")), default=0))


def voters(start: Path) -> list[Path]:
    """Returns the runs that vote, the one read from first."""
    runs = [start, *map(Path, _VOTERS.value)]
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError(f"--voters={','.join(_VOTERS.value)} with {start} names a run twice: each votes once")
    return runs


def needed(flag) -> str:
    if not flag.value:
        raise UserError(f"--mode={_MODE.value} needs --{flag.name}")
    return flag.value


def chosen_variants() -> list[str]:
    chosen = _VARIANTS.value or ([_VARIANT.value] if _VARIANT.value else list(VARIANTS))
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise UserError(f"unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    return chosen


def whole_numbers(flag) -> list[int]:
    if not flag.value or not all(part.isdecimal() for part in flag.value):
        raise UserError(f"--{flag.name}={','.join(flag.value)}: give whole numbers, as in 1,2,3")
    return [int(part) for part in flag.value]


def read_config(start: Run | None, student: Run | None = None) -> Config:
    """Returns the recipe, or the config of the run read from, with the flags' overrides.

    What a recipe leaves open, variant and documents, is that of the run read from. In distilling, the student
    may be of another kind than its teachers.
    """
    if _MODE.value == "distill" and (student or _CONFIG.value):
        start = student
    if _CONFIG.value is None and start is not None:
        config = start.config
    else:
        config = load_recipe(_CONFIG.value or QUICKSTART)
        if start is not None and not config.data.pretrain_corpus_path:
            there = start.config.data
            documents = {"pretrain_corpus_path": there.pretrain_corpus_path, "biographies": there.biographies}
            config = replace(config, data=replace(config.data, **documents))
    if _MODE.value == "distill":
        config = override(config, {"n_seeds": 1})  # and not as many as teach it
    variant = _VARIANT.value or _FIELDS["model.variant"].value
    if start is not None:
        variant = variant or start.config.model.variant
    named = {
        "seed": _SEED.value,
        "n_seeds": _NUM_SEEDS.value,
        "model.variant": variant,
        "model.bottleneck_dim": _BOTTLENECK_DIM.value,
        "data.pretrain_corpus_path": _PRETRAIN_CORPUS.value,
        "data.finetune_corpus_path": _FINETUNE_CORPUS.value,
        "data.eval_corpus_path": _EVAL_CORPUS.value,
        "pretrain.objective": _OBJECTIVE.value,
        "pretrain.learning_rate": _PRETRAIN_LR.value,
        "finetune.learning_rate": _FINETUNE_LR.value,
    }
    given = {name: flag.value for name, flag in _FIELDS.items()}
    changes = {name: value for name, value in [*given.items(), *named.items()] if value is not None}
    # One rule: a flag for finetuning applies to finetuning from scratch too.
    scratch = {
        name.replace("finetune.", "scratch.", 1): value
        for name, value in changes.items()
        if name.startswith("finetune.")
    }
    config = override(config, scratch | changes)
    if "model.bottleneck_dim" in changes:
        check_latents(config)
    return config


def check_latents(config: Config):
    """Raises a UserError where a variant has more latents than the texts have positions to fill them."""
    cfg = config.model
    names = chosen_variants() if _MODE.value in SEVERAL_VARIANTS else [cfg.variant]
    has_them = any(VARIANTS[name].bottleneck for name in names if name in VARIANTS)
    if has_them and cfg.bottleneck_dim > cfg.seq_len:
        raise UserError(
            f"bottleneck_dim {cfg.bottleneck_dim} is beyond model.seq_len {cfg.seq_len}: give less"
        )


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; what is wrong with them ends the program with one line and status 2."""
    try:
        if native := course.native(argv[1:]):
            print(f"this is: python -m kgpt_jax.main {shlex.join(native)}", flush=True)
            argv = [argv[0], *native]
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: flags begin with --")
        return rest
    except flags.UnrecognizedFlagError as error:
        module = flags.FLAGS.find_module_defining_flag("mode")
        ours = sorted(flag.name for flag in flags.FLAGS.flags_by_module_dict()[module])
        fields = error.flagname.startswith("config.")
        listed = [name for name in ours if name.startswith("config.") == fields]
        near = difflib.get_close_matches(error.flagname, listed, n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        fail(f"unknown flag --{error.flagname}: {hint}choose from {', '.join(listed)}")
    except (flags.Error, UserError) as error:
        fail(str(error))


def fail(message: str):
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def guarded(argv):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # what Orbax tells besides, it raises
    try:
        find_devices()
        main(argv)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        where = f"cannot use {error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror}; the same command goes on from the newest checkpoint")
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        said = (str(error).splitlines() or ["it does not say how much was asked for"])[0]
        fail(
            f"out of memory ({said[:200]}): lower the stage's batch_size or epochs, or raise its pieces; "
            "lower model.n_embd, model.n_layer or n_seeds; ask for fewer --beams or --num_samples"
        )
    except KeyboardInterrupt:  # outside of training, which saves first
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def run():
    """Runs the command that the process was started with, and ends the process with its status."""
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):  # for --helpshort
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        try:
            app.run(guarded, flags_parser=parse)
        finally:
            if sys.stdout:  # None where it was closed from the start
                sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as behind `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
        sys.exit(CLOSED)


if __name__ == "__main__":
    run()

"""The config of a run: frozen dataclasses, their checks, overrides, and conversion to and from JSON.

`Config` holds everything that decides a run's numbers. Defaults are defined here; a recipe
(`configs/NAME.py`) has a function `get_config() -> Config` that sets only the fields that differ. The run's
folder (`--workdir`) is not a field, so that a folder can be moved. The comment after a field is its help on
the command line.
"""

import dataclasses
import re
import runpy
from pathlib import Path

MAX_SEED = 2**32 - 1  # JAX uses only the last 32 bits of a seed, so a larger seed would repeat a smaller one


class UserError(ValueError):
    """An error that the user can correct; `main` prints it as one line and exits with status 2."""


def first_line(error: Exception) -> str:
    """Returns what another library's error says, in one line."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _require(ok: bool, message: str):
    if not ok:
        raise UserError(message)


def _require_seed(name: str, seed: int):
    _require(seed >= 0 and seed <= MAX_SEED, f"{name} is {seed}: give 0 to {MAX_SEED:,}")


def check_utf8(where: str, text: str):
    """Raises a UserError, which begins with `where`, if a text cannot be written in UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where} is not text in UTF-8: {text[:80]!r}") from None


def check_local(name: str, path: str):
    """Raises a UserError if a path is an address such as gs://bucket/runs: only local files work.

    Args:
      name: the flag or field, for the message.
      path: its value.
    """
    advice = "copy the files to a local folder, or mount the remote one, and give its path"
    _require("://" not in path, f"{name} is {path!r}, which is no local path: {advice}")


def read_options(text: str) -> dict[str, int]:
    """Parses a text such as "bottleneck_dim=32,attention_block=4" into a dict from names to numbers.

    Raises:
      UserError: a part of the text is not a name with a whole number, or a name occurs twice.

    >>> read_options("linformer_dim=8, attention_block=4")
    {'linformer_dim': 8, 'attention_block': 4}
    """
    options = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"([a-zA-Z]\w*)\s*=\s*([0-9]{1,9})", part)
        if found is None:
            raise UserError(
                f"model.options is {text!r}: give names with whole numbers, as in attention_block=4"
            )
        _require(found[1] not in options, f"model.options is {text!r}: give {found[1]} once")
        options[found[1]] = int(found[2])
    return options


def write_options(options: dict[str, int]) -> str:
    """Returns options as text, sorted by name, so that equal options give equal texts.

    >>> write_options({"linformer_dim": 8, "attention_block": 4})
    'attention_block=4,linformer_dim=8'
    """
    return ",".join(f"{name}={value}" for name, value in sorted(options.items()))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are the course's full size: 3,323,392 parameters for vanilla."""

    variant: str = "vanilla"
    vocab_size: int = 0  # set from the corpus
    pattern_seed: int = 0  # of patterns that are drawn and never trained: the run's seed, if there are any
    block_size: int = 128  # rows of the learned position table
    seq_len: int = 127  # characters that the model reads at once, at most; a text has one more
    n_layer: int = 4
    n_head: int = 8
    n_embd: int = 256
    options: str = ""  # the variant's own settings, as in attention_block=4,linformer_dim=8 (--mode=costs)
    dropout: float = 0.1  # on embeddings, attention weights and each sub-layer's output
    remat: bool = False  # recompute activations in the backward pass: less memory, a third more work
    products: str = "float32"  # factors in linear layers; auto: bfloat16 on a CPU that multiplies it faster
    dtype: str = "float32"  # of activations; parameters, softmax and loss stay float32

    def __post_init__(self):
        # This checks only the form. `lookup` in model/variants.py checks that the variant has the options.
        object.__setattr__(self, "options", write_options(read_options(self.options)))
        for name in ("block_size", "seq_len", "n_layer", "n_head", "n_embd"):
            most = 1_000 if name == "n_layer" else 1_000_000
            value = getattr(self, name)
            _require(0 < value <= most, f"model.{name} is {value}: give 1 to {most:,}")
        _require(
            self.n_embd % self.n_head == 0,
            f"model.n_embd {self.n_embd} is not a multiple of model.n_head {self.n_head}",
        )
        _require(
            self.seq_len <= self.block_size,
            f"model.seq_len {self.seq_len} is beyond model.block_size {self.block_size}",
        )
        _require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}: from 0 to below 1")
        for name, choices in (
            ("dtype", ("float32", "bfloat16")),
            ("products", ("float32", "bfloat16", "auto")),
        ):
            value = getattr(self, name)
            _require(value in choices, f"model.{name} is {value!r}: choose from {', '.join(choices)}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One stage of training: AdamW or Muon, with a learning rate that depends on the tokens read so far."""

    objective: str = ""  # or a mixture, "a=0.7,b=0.3"; empty: span_corruption, or question_answer to finetune
    preceded: float = 0.0  # fraction of texts that follow another text in their row, if both fit
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 6e-4  # peak
    muon_learning_rate: float = 0.0  # peak for the blocks' matrices under Muon; 0: AdamW for all parameters
    warmup_tokens: int = 10_240
    schedule: str = "cosine"  # or wsd: warmup, constant rate, linear decay
    final_tokens: int = 0  # tokens after which the decay ends; 0: at the end of the run
    text_tokens: int = 0  # tokens that the schedule counts per text; 0: model.seq_len
    decay_from: float = 0.6  # wsd: fraction of final_tokens after which the rate decays
    floor: float = 0.1  # lowest rate of the decay, as a fraction of the peak
    first_step_at_peak: bool = False  # first update at the peak, others at the rate before them (the course)
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1  # AdamW: all parameters but biases; Muon: the blocks' matrices only
    clip_norm: float = 1.0
    shuffle: bool = True
    group_by_length: bool = True  # texts of similar length share a batch, which saves padding
    microbatches: int = 0  # parts of a batch, by length; 0: up to 16 on a CPU if it is large or mixed, else 1
    microbatches_per_dispatch: int = 8  # at most, in one call; CPUs take 1 if an update has several
    save_every: int = 500  # updates between checkpoints

    def __post_init__(self):
        for name in ("batch_size", "microbatches_per_dispatch", "save_every"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give 1 or more")
        _require(0 < self.epochs <= 10_000_000, f"epochs is {self.epochs}: give 1 to 10,000,000")
        for name in ("learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give more than 0")
        limits = {"text_tokens": 10**6, "microbatches": 10**4, "microbatches_per_dispatch": 10**4}
        limits |= {"warmup_tokens": 10**15, "final_tokens": 10**15}
        for name, limit in limits.items():
            _require(getattr(self, name) <= limit, f"{name} is {getattr(self, name)}: give at most {limit:,}")
        not_negative = "muon_learning_rate warmup_tokens final_tokens text_tokens weight_decay microbatches"
        for name in not_negative.split():
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        _require(
            self.schedule in ("cosine", "wsd"), f"schedule is {self.schedule!r}: choose from cosine, wsd"
        )
        for name in ("preceded", "decay_from", "floor"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: from 0 to 1")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}: from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class BiographiesConfig:
    """The built-in corpus of made-up people (`data/biographies.py`)."""

    n_train: int = 200  # people whose questions and answers are trained on
    n_dev: int = 200  # people to evaluate on; only their biographies are trained on
    n_test: int = 50  # people with questions and no answers
    copies: int = 5  # differently worded biographies of each person
    permute: bool = True  # sentences in random order; otherwise the birthplace first
    n_facts: int = 2  # sentences in a biography, one of them about the birthplace
    repeat_name: bool = True  # every sentence has the full name; otherwise only the first
    questions: str = "birth_place"  # one question about each person; all: one about each of the six facts
    seed: int = 0  # decides people, facts and wordings

    def __post_init__(self):
        _require_seed("data.biographies.seed", self.seed)
        _require(
            self.copies <= 1_000_000, f"data.biographies.copies is {self.copies}: give at most 1,000,000"
        )
        _require(
            self.questions in ("birth_place", "all"),
            f"data.biographies.questions is {self.questions!r}: choose from birth_place, all",
        )


DATA_PATHS = ("pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where texts come from. An empty path means the built-in corpus."""

    pretrain_corpus_path: str = ""  # documents, one per line
    finetune_corpus_path: str = ""  # lines of question, tab, answer
    eval_corpus_path: str = ""  # questions, with or without answers
    n_validation: int = 0  # last training pairs, or built-in people, to hold out and evaluate on instead
    skip_learned: bool = False  # do not score questions that the run has learned; false: refuse to score
    other_corpus: bool = False  # allow documents other than those that the run was pretrained on
    ascii_pairs: bool = False  # drop non-ASCII characters in finetuning, as the course does
    shards: int = 0  # parts of the corpus, each with its own rows of a batch; 0: up to 8 if it is large
    biographies: BiographiesConfig = BiographiesConfig()

    def __post_init__(self):
        for name in ("n_validation", "shards"):
            _require(getattr(self, name) >= 0, f"data.{name} is {getattr(self, name)}: give 0 or more")
        for name in DATA_PATHS:
            check_local(f"data.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run's numbers."""

    seed: int = 0  # decides initial parameters, dropout and data order
    n_seeds: int = 1  # models to train at once on the same batches; initial parameters and dropout differ
    model_devices: int = 1  # devices that each large parameter is divided over; the rest divide each batch
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    pretrain: TrainConfig = TrainConfig()
    finetune: TrainConfig = TrainConfig()
    scratch: TrainConfig = TrainConfig()  # finetuning without pretraining

    def __post_init__(self):
        _require_seed("seed", self.seed)
        for name in ("n_seeds", "model_devices"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give 1 or more")


def to_dict(config) -> dict:
    """Returns the nested dict that `config.json` holds."""
    return dataclasses.asdict(config)


def from_dict(tree: dict, kind: type = Config, prefix: str = ""):
    """Returns the config that a nested dict holds: the inverse of `to_dict`.

    Args:
      tree: fields by name; missing ones take their defaults.
      kind: the dataclass.
      prefix: of field names in errors, such as "model.".

    Raises:
      UserError: a field is unknown, or its value has the wrong type or is out of range.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in tree.items():
        if name not in known:
            raise _unknown_field(prefix + name)
        default = known[name].default
        if dataclasses.is_dataclass(default):
            _require(isinstance(value, dict), f"{prefix}{name} is {value!r}: expected a section")
            values[name] = from_dict(value, type(default), f"{prefix}{name}.")
        else:
            values[name] = _typed(prefix + name, value, type(default))
    return kind(**values)


def _typed(name: str, value, kind: type):
    if kind is float and type(value) is int:
        return float(value)
    _require(type(value) is kind, f"{name} is {value!r}: expected {kind.__name__}, as in {kind()!r}")
    return value


def leaves(config=None, prefix: str = "") -> dict:
    """Returns every field of a config, by default `Config()`, with its value: {"model.n_layer": 4, ...}."""
    flat: dict[str, object] = {}
    config = Config() if config is None else config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= leaves(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def override(config: Config, changes: dict) -> Config:
    """Returns a copy of a config with some fields changed.

    >>> override(Config(), {"model.n_layer": 6}).model.n_layer
    6

    Args:
      config: the config.
      changes: new values by the fields' names. "model.options.bottleneck_dim" is an option of the variant.

    Raises:
      UserError: a field is unknown, or its value has the wrong type or is out of range.
    """
    tree = to_dict(config)
    for name, value in changes.items():
        if name.startswith("model.options."):
            options = read_options(tree["model"]["options"]) | {name.removeprefix("model.options."): value}
            tree["model"]["options"] = write_options(options)
            continue
        if name not in leaves():
            raise _unknown_field(name)
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return from_dict(tree)


def _unknown_field(name: str) -> UserError:
    return UserError(f"unknown config field {name!r}; choose from {', '.join(leaves())}")


def load_recipe(path: str) -> Config:
    """Returns the config that a recipe's `get_config()` returns.

    Args:
      path: the path of the user's file. If there is no such file, `best`, `best.py` and `configs/best.py` all
        name the recipe `best` of this package, whatever the current folder is.

    Raises:
      UserError: there is no such recipe, or it fails or returns no `Config`.
    """
    package = Path(__file__).parent
    shipped = package / "configs"  # where pip puts them
    if not shipped.is_dir():
        shipped = package.parent / "configs"  # in a checkout
    found, name = Path(path), Path(path).name.removesuffix(".py")
    if not found.is_file() and Path(path).parent in (Path(), Path("configs")):
        found = shipped / f"{name}.py"
    if not found.is_file():
        names = ", ".join(sorted(file.stem for file in shipped.glob("*.py")))
        raise UserError(f"no recipe {path!r}; choose from {names}, or give a file's path")
    try:
        namespace = runpy.run_path(str(found))
        _require("get_config" in namespace, "it has no get_config()")
        config = namespace["get_config"]()
    except UserError as error:
        raise UserError(f"recipe {path!r}: {error}") from None
    except TypeError as error:  # a field that the dataclasses lack, or a value of a wrong type
        raise UserError(f"recipe {path!r}: {error}; fields are {', '.join(leaves())}") from None
    except Exception as error:  # whatever a user's Python file may raise
        raise UserError(f"recipe {path!r}: {type(error).__name__}: {error}") from None
    _require(isinstance(config, Config), f"recipe {path!r}: get_config() must return a Config")
    return from_dict(to_dict(config))

"""What a run is: frozen dataclasses, JSON both ways, `--config.field` overrides, and the checks.

`Config` is all that decides a run's numbers. Defaults live here once; a recipe (`configs/NAME.py`)
holds a `get_config() -> Config` that says only what differs. Where a run lives (`--workdir`) is not
part of it, so a folder can be moved.
"""

import dataclasses
import runpy
from pathlib import Path

MOST_SEED = 2**32 - 1  # JAX takes the last 32 bits of a larger one, which is another seed's key


class UserError(ValueError):
    """Something the user can put right; `main` prints it as one line and exits with status 2."""


def _require(ok: bool, message: str):
    if not ok:
        raise UserError(message)


def _require_seed(name: str, seed: int):
    _require(seed >= 0 and seed <= MOST_SEED, f"{name} is {seed}: give 0 to {MOST_SEED:,}")


def check_local(name: str, path: str):
    """Raises a UserError where a path is an address, such as gs://bucket/runs: files are local here."""
    advice = "copy the files to a local folder, or mount the remote one, and give its path"
    _require("://" not in path, f"{name} is {path!r}, which is no local path: {advice}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are the course's full size: 3,323,392 parameters for vanilla."""

    variant: str = "vanilla"
    vocab_size: int = 0  # set from the corpus
    pattern_seed: int = 0  # set from the run's seed: decides what is drawn once and never trained
    block_size: int = 128  # rows of the learned position table
    seq_len: int = 127  # most characters the model reads at once; texts are one longer
    n_layer: int = 4
    n_head: int = 8
    n_embd: int = 256
    bottleneck_dim: int = 64  # latents of the perceivers
    attention_block: int = 16  # positions in a block of bigbird and linformer
    linformer_dim: int = 16  # projected keys of linformer
    dropout: float = 0.1  # on embeddings, attention weights and each sub-layer's output
    remat: bool = False  # compute activations again for the gradient: less memory, a third more work
    products: str = "float32"  # factors of linear layers; auto: bfloat16 on a CPU that multiplies it faster
    dtype: str = "float32"  # of activations; parameters, softmax and loss stay float32

    def __post_init__(self):
        sizes = ("block_size", "seq_len", "n_layer", "n_head", "n_embd")
        for name in (*sizes, "bottleneck_dim", "attention_block", "linformer_dim"):
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
    """One stage of training: AdamW or Muon under a schedule that is counted in tokens."""

    objective: str = ""  # or a mixture, "a=0.7,b=0.3"; empty: span_corruption, or question_answer to finetune
    preceded: float = 0.0  # share of texts that stand behind another one, where both fit
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 6e-4  # peak
    muon_learning_rate: float = 0.0  # peak for the blocks' matrices under Muon; 0: AdamW for all
    warmup_tokens: int = 10_240
    schedule: str = "cosine"  # or wsd: warm up, stay, and fall in a line
    final_tokens: int = 0  # where the rate reaches its floor; 0 means at the end of the run
    text_tokens: int = 0  # that the schedule counts for each text; 0: as many as the model reads
    decay_from: float = 0.6  # wsd: share of the tokens after which the rate falls
    floor: float = 0.1  # of the peak rate
    first_step_at_peak: bool = False  # the course sets the rate after each update, for the next
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1  # AdamW: of all but biases; Muon: of the blocks' matrices only
    clip_norm: float = 1.0
    ema_decay: float = 0.0  # above 0, training hands on a moving average of its parameters
    shuffle: bool = True
    group_by_length: bool = True  # batches of texts of like length, so that little padding is left
    microbatches: int = (
        0  # of a batch, split by length; 0: 8 on a CPU where group_by_length is off, otherwise 1
    )
    steps_per_dispatch: int = 8  # updates, or microbatches of them, between two visits to Python
    save_every: int = 500  # updates between checkpoints

    def __post_init__(self):
        for name in ("epochs", "batch_size", "steps_per_dispatch", "save_every"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give 1 or more")
        for name in ("learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give more than 0")
        not_negative = "muon_learning_rate warmup_tokens final_tokens text_tokens weight_decay microbatches"
        for name in not_negative.split():
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        _require(
            self.schedule in ("cosine", "wsd"), f"schedule is {self.schedule!r}: choose from cosine, wsd"
        )
        for name in ("preceded", "decay_from", "floor"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: from 0 to 1")
        for name in ("beta1", "beta2", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}: from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class BiographiesConfig:
    """The built-in corpus of made-up people (`data/biographies.py`)."""

    n_train: int = 200  # people whose question and answer are trained on
    n_dev: int = 200  # people who are asked about; only their biographies are trained on
    n_test: int = 50  # people with questions and no answers
    copies: int = 5  # differently worded biographies of each person
    permute: bool = True  # sentences in random order; otherwise the birth first
    n_facts: int = 2  # sentences in one biography, the birth among them
    repeat_name: bool = True  # every sentence gives the full name; otherwise only the first
    seed: int = 0

    def __post_init__(self):
        _require_seed("data.biographies.seed", self.seed)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where texts come from. An empty path means the built-in corpus."""

    pretrain_corpus_path: str = ""
    finetune_corpus_path: str = ""
    eval_corpus_path: str = ""
    n_validation: int = 0  # last training pairs that are kept out of training, and asked about instead
    skip_learned: bool = False  # leave questions out of the score whose answers the run learned; else refuse
    other_corpus: bool = False  # the documents may differ from those that the run was pretrained on
    ascii_pairs: bool = False  # the course drops non-ASCII characters, in finetuning only
    shards: int = 0  # of the corpus, each in its own rows of a batch; 0: 8 at most of a large one, else 1
    biographies: BiographiesConfig = BiographiesConfig()

    def __post_init__(self):
        for name in ("n_validation", "shards"):
            _require(getattr(self, name) >= 0, f"data.{name} is {getattr(self, name)}: give 0 or more")
        for name in ("pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path"):
            check_local(f"data.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run's numbers."""

    seed: int = 0
    # Models trained at once on the same texts: other first parameters and dropout, the same pattern_seed.
    n_seeds: int = 1
    model_devices: int = 1  # devices that share each large parameter; all others share each batch's texts
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
    """Returns the dataclass `kind` read from a nested dict; an unknown or mistyped field is a UserError."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in tree.items():
        _require(name in known, _unknown_field(prefix + name))
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
    """Returns `{"model.n_layer": 4, ...}`: every field that can be overridden, with its value."""
    flat = {}
    config = Config() if config is None else config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= leaves(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def override(config: Config, changes: dict) -> Config:
    """Returns `config` with `{"model.n_layer": 6}`-like changes made and checked."""
    tree = to_dict(config)
    for name, value in changes.items():
        _require(name in leaves(), _unknown_field(name))
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return from_dict(tree)


def _unknown_field(name: str) -> str:
    return f"unknown config field {name!r}; choose from {', '.join(leaves())}"


def load_recipe(path: str) -> Config:
    """Returns the `Config` of a recipe: a file of the user's or, if there is none, one of `configs/`.

    Names of the latter may be given as `best`, `best.py` or `configs/best.py`, in any folder. A UserError
    lists them where there is no such recipe, and says what is wrong with one.
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
    except TypeError as error:  # a field that the dataclasses lack, or a value of a wrong type
        raise UserError(f"recipe {path!r}: {error}; fields are {', '.join(leaves())}") from None
    except Exception as error:  # whatever a user's Python file may raise
        raise UserError(f"recipe {path!r}: {type(error).__name__}: {error}") from None
    _require(isinstance(config, Config), f"recipe {path!r}: get_config() must return a Config")
    return from_dict(to_dict(config))

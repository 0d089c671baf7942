"""Measures kgpt_jax, and optionally PyTorch: python -m benchmarks.benchmark --suite=train --against=torch

    train     an update of the recipe, and the memory that training needs
    levers    the same update, with one optimization at a time switched off
    decode    answers to 500 questions, by a briefly finetuned model
    startup   from a command to the first finished update, or to the answer to a question
    roofline  what an update's time goes into on a CPU, and how near it is to its matrix products alone
    scaling   an update against the length of the texts and against the width of the model
    gpu       updates of the recipe and at GPT-2's size, and eight seeds at once

Each contestant runs in its own process. All contestants warm up first and then take turns, so that other load
on the machine affects them equally. Ratios are computed turn by turn. The benchmark prints a table and writes
`<suite>.json` and `<suite>.png` to `--outputs_path`. Without `--pretrain_corpus_path`, the corpus is the
built-in people.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags, logging

from benchmarks.report import Sample, accelerators, draw, exponent, guarded, machine, ratios, shares, table
from kgpt_jax.config import Config, UserError, check_local, load_recipe, override, to_dict
from kgpt_jax.store.outputs import check, record, write_lines

PEERS = ("vanilla", "synthesizer")  # variants that the PyTorch peer implements
LENGTHS, WIDTHS = (64, 128, 256, 512, 1024), (128, 256, 512, 1024)
GPT2 = {
    "model.n_layer": 12,
    "model.n_head": 12,
    "model.n_embd": 768,
    "model.block_size": 1024,
    "model.seq_len": 1024,
    "model.dtype": "bfloat16",
    "model.dropout": 0.0,
    "model.vocab_size": 256,
}

FLAGS = flags.FLAGS


def define_flags():
    flags.DEFINE_enum("suite", None, list(SUITES), "What to measure.", required=True)
    flags.DEFINE_enum("against", "nothing", ("nothing", "torch"), "Measure PyTorch as well.")
    flags.DEFINE_list(
        "variants",
        "vanilla,synthesizer",
        "Variants to measure (gpu: the recipe's own); with PyTorch, these two.",
    )
    flags.DEFINE_string("config", "configs/course_2021.py", "Recipe file.")
    flags.DEFINE_integer("repeats", 7, "Turns of each contestant.", lower_bound=1)
    flags.DEFINE_integer("updates", 4, "Updates in a turn.", lower_bound=1)
    flags.DEFINE_float("peak_tflops", None, "Suite gpu: the device's peak, to print the share used.")
    flags.DEFINE_string("pretrain_corpus_path", "", "Documents, one per line.")
    flags.DEFINE_string("finetune_corpus_path", "", "question<TAB>answer lines.")
    flags.DEFINE_string("outputs_path", "runs/benchmark", "Folder of the JSON file and the picture.")


def take_turns(specs: dict[str, dict], repeats: int) -> list[Sample]:
    """Starts a process for each contestant and lets the processes work in turns.

    Args:
      specs: by name, the kind of contestant and its arguments (`benchmarks/contestants.py`). The optional key
        "environment" holds variables to set for its process.
      repeats: turns of each contestant.

    Returns:
      A sample for each spec, in the same order.

    Raises:
      UserError: a contestant failed.
    """
    running = {}
    try:
        for name, spec in specs.items():  # one after the other, because warming up keeps the processor busy
            print(f"warming up: {name}", flush=True)
            variables = spec.get("environment", {})
            spec = {key: value for key, value in spec.items() if key != "environment"}
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contestants", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent.parent,
                # Contestants share a GPU, of which JAX would take most at its start.
                env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | variables,
            )
            _answer(name, running[name])
        turns = {name: [] for name in specs}
        for _ in range(repeats):
            for name, process in running.items():
                print(file=process.stdin, flush=True)
                turns[name].append(_answer(name, process))
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return [
        Sample(name, [turn["seconds"] for turn in took], took[-1]["peak_mb"], took)
        for name, took in turns.items()
    ]


def _answer(name: str, process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    if not line:
        raise UserError(f"the contestant {name!r} ended with status {process.wait()}; its message is above")
    return json.loads(line)


def train(config: Config) -> list[dict]:
    """Measures the recipe's update in float32 and with bfloat16 factors (PyTorch: under autocast).

    PyTorch makes it twice: by the course's code as it is, and compiled by `torch.compile`.
    """
    tables = []
    for variant in FLAGS.variants:
        specs = {}
        for products in ("float32", "bfloat16"):
            changed = override(config, {"model.variant": variant, "model.products": products})
            specs[products] = {"kind": "jax_train", "config": to_dict(changed), "updates": FLAGS.updates}
            if FLAGS.against == "torch":
                peer = {"kind": "torch_train", "autocast": products == "bfloat16"}
                for name, compiled in (("PyTorch", False), ("PyTorch compiled", True)):
                    specs[f"{products}, {name}"] = specs[products] | peer | {"compiled": compiled}
        tables.append(table(f"{variant}: seconds of an update", take_turns(specs, FLAGS.repeats)))
    return tables


def levers(config: Config) -> list[dict]:
    """Measures an update with all optimizations, and updates that lack one or all of them."""
    fast = {"model.products": "bfloat16"}
    changes = {
        "all levers": {},
        "float32 factors": {"model.products": "float32"},
        "batches in one microbatch": {"pretrain.microbatches": 1},
        "memory is given back": {},
        "memory is given back, pages of 4 kB": {},
        "none of these": {"model.products": "float32", "pretrain.microbatches": 1},
    }
    tunables = {  # `prepare` keeps a value that has a setting of the allocator
        "memory is given back": "glibc.malloc.hugetlb=1",
        "memory is given back, pages of 4 kB": "glibc.malloc.hugetlb=0",
        "none of these": "glibc.malloc.hugetlb=0",
    }
    tables = []
    for variant in FLAGS.variants:
        specs = {}
        for name, change in changes.items():
            changed = override(config, {"model.variant": variant} | fast | change)
            specs[name] = {"kind": "jax_train", "config": to_dict(changed), "updates": FLAGS.updates}
            if name in tunables:
                specs[name]["environment"] = {"GLIBC_TUNABLES": tunables[name]}
        samples = take_turns(specs, FLAGS.repeats)
        tables.append(table(f"{variant}: seconds of an update", samples))
        for sample in samples[1:]:
            slower = ratios(samples[0].seconds, sample.seconds)
            print("{}: {:.2f} times as long ({:.2f} to {:.2f})".format(sample.name, *slower))
    return tables


def decode(config: Config) -> list[dict]:
    """Measures 500 answers of a full-size model, finetuned for 100 updates so that its answers end."""
    import numpy as np

    from kgpt_jax.data import corpus
    from kgpt_jax.store.folder import read_run
    from kgpt_jax.store.params import load_params
    from kgpt_jax.store.torch_params import to_torch

    known = corpus.load_pairs(config.data).questions
    questions = (known * -(-500 // len(known)))[:500]
    epochs = max(1, 100 // -(-len(known) // config.scratch.batch_size))
    tables = []
    for variant in FLAGS.variants:
        with tempfile.TemporaryDirectory() as folder:
            recipe = main_command("finetune", variant, folder)
            quick = [f"--config.scratch.epochs={epochs}", "--reading_params_path=none"]
            subprocess.run([*recipe, *quick], check=True)
            run = read_run(Path(folder) / variant / "scratch")
            arrays = Path(folder) / "params.npz"
            np.savez(arrays, **to_torch(load_params(run)))
            spec = {"config": to_dict(run.config), "params_path": str(arrays), "questions": questions}
            specs = {
                "float32": {"kind": "jax_decode", "products": "float32"} | spec,
                "bfloat16": {"kind": "jax_decode", "products": "bfloat16"} | spec,
            }
            if FLAGS.against == "torch":
                specs["float32, PyTorch, one by one"] = {"kind": "torch_decode"} | spec
            samples = take_turns(specs, FLAGS.repeats)
        reference = samples[0].turns[-1]["answers"]
        for sample in samples[1:]:
            same = sum(a == b for a, b in zip(sample.turns[-1]["answers"], reference, strict=True))
            print(f"{sample.name}: {same} of 500 answers are those of {samples[0].name}")
        print("answers such as " + ", ".join(repr(answer) for answer in reference[:3]))
        tables.append(table(f"{variant}: seconds for 500 answers", samples))
    return tables


def startup(config: Config) -> list[dict]:
    """Measures how long the first update and one answer take, with an empty and with a filled cache."""
    names, tables = ("empty cache", "warm cache"), []
    usual = {name: text for name, text in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    for variant in FLAGS.variants:
        updates, answers = {name: [] for name in names}, {name: [] for name in names}
        with tempfile.TemporaryDirectory() as caches, tempfile.TemporaryDirectory() as model:
            # This model only has to answer something. It trains with the usual cache, not with those below.
            quick = ["--config.scratch.epochs=1", "--reading_params_path=none"]
            subprocess.run([*main_command("finetune", variant, model), *quick], check=True)
            training, asking = (usual | {"XDG_CACHE_HOME": f"{caches}/{of}"} for of in ("training", "asking"))
            for turn in range(FLAGS.repeats + 1):
                name = names[min(turn, 1)]
                updates[name].append(until_first_update(variant, training))
                answers[name].append(until_answer(f"{model}/{variant}/scratch", asking))
        for until, seconds in (("to the first update", updates), ("for one answer", answers)):
            samples = [Sample(name, took, 0.0) for name, took in seconds.items()]
            tables.append(table(f"{variant}: seconds {until}", samples))
    return tables


def until_first_update(variant: str, environment: dict[str, str]) -> float:
    """Returns the seconds from the start of pretraining to the first line of `metrics.jsonl`."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = main_command("pretrain", variant, folder)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        metrics = Path(folder) / variant / "pretrain" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise UserError(f"training ended with status {process.returncode}")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
    return seconds


def until_answer(run: str, environment: dict[str, str]) -> float:
    """Returns the seconds that `--mode=ask` takes for one question, from its start to its end."""
    ask = ["--mode=ask", f"--reading_params_path={run}", "--question=Where was Ada Lovelace born?"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "kgpt_jax.main", *ask]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main_command(mode: str, variant: str, folder: str) -> list[str]:
    command = [sys.executable, "-m", "kgpt_jax.main", f"--mode={mode}", f"--variant={variant}"]
    command += [f"--config={FLAGS.config}", f"--workdir={folder}"]
    paths = {
        "pretrain_corpus_path": FLAGS.pretrain_corpus_path,
        "finetune_corpus_path": FLAGS.finetune_corpus_path,
    }
    return command + [f"--{name}={path}" for name, path in paths.items() if path]


def roofline(config: Config) -> list[dict]:
    """Measures what an update's time goes into on one core, and its matrix products alone."""
    if not hasattr(os, "sched_getaffinity"):
        raise UserError("--suite=roofline runs on Linux only: it has to choose the cores of a process")
    cores = sorted(os.sched_getaffinity(0))
    tables = []
    for variant in FLAGS.variants:
        for products in ("float32", "bfloat16"):
            changed = override(config, {"model.variant": variant, "model.products": products})
            spec = {"kind": "jax_roofline", "config": to_dict(changed), "updates": FLAGS.updates}
            spec["environment"] = {"JAX_PLATFORMS": "cpu"}
            specs = {"one core": spec | {"cores": cores[:1]}, f"{len(cores)} cores": spec | {"cores": cores}}
            samples = take_turns(specs, FLAGS.repeats)
            tables.append(shares(f"{variant}, {products}: an update on one core", *samples))
    return tables


def scaling(config: Config) -> list[dict]:
    """Measures updates against length (4 texts) and width (8 texts of 128), and fits a power law to each."""
    from kgpt_jax.model.costs import paper_flops

    tables = []
    for variant in FLAGS.variants:
        for axis, sizes in (("length", LENGTHS), ("width", WIDTHS)):
            points = []
            for size in sizes:
                long = size if axis == "length" else 128
                changes = {"model.variant": variant, "model.block_size": long, "model.seq_len": long}
                changes |= {"model.n_embd": size} if axis == "width" else {}
                changes["model.vocab_size"] = 256
                changed = override(config, changes)
                spec = {"kind": "jax_step", "rows": 4 if axis == "length" else 8, "updates": FLAGS.updates}
                spec["config"] = to_dict(changed)
                (sample,) = take_turns({f"{variant}, {axis} {size}": spec}, FLAGS.repeats)
                points.append((sample, paper_flops(changed.model, long)))
            result = table(f"{variant}: seconds of an update by {axis}", [sample for sample, _ in points])
            result |= {
                "variant": variant,
                "axis": axis,
                "sizes": sizes,
                "exponent": exponent(sizes, [sample.median for sample, _ in points]),
                "theory": exponent(sizes, [flops for _, flops in points]),
            }
            print(f"fitted exponent {result['exponent']:.2f}; of the multiplications {result['theory']:.2f}")
            tables.append(result)
    return tables


def gpu(config: Config) -> list[dict]:
    """Measures the recipe, GPT-2 on full texts, and eight models of the recipe at once by `jax.vmap`."""
    from benchmarks.contestants import load_data
    from kgpt_jax.model.costs import paper_flops

    fast = {"autocast": True, "fused": True, "compiled": True}
    recipe = {"config": to_dict(override(config, {"model.dtype": "bfloat16"})), "updates": 5 * FLAGS.updates}
    specs = {"bfloat16": {"kind": "jax_train"} | recipe}
    if FLAGS.against == "torch":
        specs["bfloat16, PyTorch compiled"] = {"kind": "torch_train"} | recipe | fast
    samples = take_turns(specs, FLAGS.repeats)
    tables = [table(f"{Path(FLAGS.config).stem}: seconds of an update", samples)]
    n_updates = sum(load_data(config).updates(config.pretrain)) * config.pretrain.epochs
    print(f"all {config.pretrain.epochs} epochs: {samples[0].median * n_updates:.0f} s")

    filling = override(config, GPT2)
    rows, length = 16, filling.model.seq_len
    texts = {"config": to_dict(filling), "rows": rows, "updates": FLAGS.updates}
    specs = {
        "bfloat16": {"kind": "jax_step"} | texts,
        "bfloat16, without the fused kernel": {"kind": "jax_step", "fused": False} | texts,
    }
    if FLAGS.against == "torch":
        specs["bfloat16, PyTorch compiled"] = {"kind": "torch_step"} | texts | fast
    samples = take_turns(specs, FLAGS.repeats)
    tables.append(table(f"GPT-2, {rows} texts of {length:,}: seconds of an update", samples))
    if FLAGS.peak_tflops:
        flops = 3 * rows * paper_flops(filling.model, length)
        print(f"share of the peak: {flops / samples[0].median / FLAGS.peak_tflops / 1e12:.1%}")

    specs = {f"{n} models": {"kind": "jax_seeds", "seeds": n} | recipe for n in (1, 8)}
    tables.append(table("seconds of an update of several models", take_turns(specs, FLAGS.repeats)))
    return tables


WITHOUT = "or leave out --against"
WITH_TORCH = ("train", "decode", "gpu")  # suites that also measure PyTorch
SUITES = {suite.__name__: suite for suite in (train, levers, decode, startup, roofline, scaling, gpu)}


def check_peer(config: Config):
    """Raises a UserError if PyTorch would not do the work that the suite measures."""
    for variant in [config.model.variant] if FLAGS.suite == "gpu" else FLAGS.variants:
        if variant not in PEERS:
            raise UserError(f"PyTorch has no {variant!r}: choose from {', '.join(PEERS)}, {WITHOUT}")
    if FLAGS.suite == "decode":
        return
    if config.pretrain.muon_learning_rate:
        raise UserError(f"the recipe trains with Muon, and PyTorch with AdamW: choose another, {WITHOUT}")
    if config.pretrain.group_by_length:
        raise UserError(
            "the recipe makes batches of texts of similar length (group_by_length), and PyTorch does not: "
            f"choose another, {WITHOUT}"
        )
    if len(accelerators()) > 1:
        raise UserError(
            f"kgpt_jax trains on {len(accelerators())} devices, and PyTorch on one: let it see only one, as "
            f"with CUDA_VISIBLE_DEVICES=0, {WITHOUT}"
        )


def main(_):
    from kgpt_jax.model.variants import each

    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax logs a lot at INFO
    for name in ("outputs_path", "pretrain_corpus_path", "finetune_corpus_path"):
        check_local(f"--{name}", FLAGS[name].value)
    config = load_recipe(FLAGS.config)
    paths = {
        "data.pretrain_corpus_path": FLAGS.pretrain_corpus_path,
        "data.finetune_corpus_path": FLAGS.finetune_corpus_path,
    }
    config = override(config, {name: os.path.abspath(path) for name, path in paths.items() if path})
    FLAGS.variants = list(dict.fromkeys(FLAGS.variants))
    if not each(config.model, FLAGS.variants):
        raise UserError("--variants names no variant")
    if FLAGS.suite in ("train", "levers", "roofline", "gpu"):
        from kgpt_jax.data import corpus
        from kgpt_jax.data.vocab import Vocab
        from kgpt_jax.store.compatible import with_vocab

        config = with_vocab(config, Vocab.of(corpus.load_documents(config.data).characters))
    found = machine(on_cpu=FLAGS.suite == "roofline")
    print(", ".join(f"{name} {value}" if name != "processor" else value for name, value in found.items()))
    if FLAGS.against == "torch" and FLAGS.suite not in WITH_TORCH:
        raise UserError(f"--suite={FLAGS.suite} does not measure PyTorch: leave out --against")
    if FLAGS.against == "torch" and "torch" not in found:
        raise UserError("--against=torch needs PyTorch: pip install torch")
    if FLAGS.against == "torch":
        check_peer(config)
    written = Path(FLAGS.outputs_path) / f"{FLAGS.suite}.json"
    picture = written.with_suffix(".png")
    kinds = {written: "measurements", picture: "a picture of measurements"}
    for path, kind in kinds.items():
        check(path, kind)
    tables = SUITES[FLAGS.suite](config)
    write_lines(written, [json.dumps({"machine": found, "tables": tables}, indent=1)], kinds[written])
    draw(tables, picture)
    record(picture, kinds[picture])
    print(f"\nwrote {written} and {picture.name}")


if __name__ == "__main__":
    define_flags()  # not at import: `kgpt_jax.main` has flags of the same names
    app.run(guarded(main))

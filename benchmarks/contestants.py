"""The benchmark's contestants, each in a process of its own: `python -m benchmarks.contestants SPEC`.

SPEC is JSON: the kind of contestant (the name of a function below) and its arguments. The process warms up
and prints a line. For each line that it reads from then on, it works once and prints
`{"seconds": ..., "peak_mb": ..., ...}`: the time of one update or of all answers, and its peak memory on the
host so far. The memory of a GPU does not count.

Each function imports its own libraries, so that no process has both JAX and PyTorch in memory.
"""

import itertools
import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

from kgpt_jax.environment import prepare

MAX_ANSWER = 32  # characters that the course's loop generates


def jax_train(config: dict, updates: int):
    """Makes updates as `loop.train` does, without checkpoints. After the last epoch it goes on."""
    from kgpt_jax.config import from_dict
    from kgpt_jax.train.feed import Feed

    config = from_dict(config)
    cfg = config.pretrain
    dispatcher, state, data, _, _, mesh = training(config)
    quiet = dispatcher.progress
    feed = Feed(data, config.model, cfg, 0, mesh)
    drawn = itertools.chain.from_iterable(epoch for _, epoch in feed.chunks(range(sys.maxsize)))
    numbers = itertools.cycle(range(len(dispatcher.rates)))

    def once() -> dict:
        nonlocal state
        began, quiet.left_out = time.perf_counter(), 0.0
        ahead = [
            (i, microbatch)
            for i, microbatches in zip(itertools.islice(numbers, updates), drawn)
            for microbatch in microbatches
        ]
        cells = sum(microbatch.batch.x_BT.size for _, microbatch in ahead)
        while ahead:
            state, n = dispatcher.send(state, ahead)
            ahead = ahead[n:]
            dispatcher.collect(under_way=1)
        dispatcher.collect(under_way=0)
        seconds = time.perf_counter() - began - quiet.left_out
        return {"seconds": seconds / updates, "cells": cells / updates}

    once()
    return once


def training(config):
    """Returns what makes a recipe's updates: dispatcher, first state, data, model, optimiser, and mesh."""
    import jax

    from kgpt_jax.devices import make_mesh
    from kgpt_jax.model.gpt import GPT
    from kgpt_jax.train.dispatch import Dispatcher
    from kgpt_jax.train.feed import microbatch_rows
    from kgpt_jax.train.optimizer import learning_rates, make_optimizer
    from kgpt_jax.train.step import init_state

    cfg = config.pretrain
    data = load_data(config)
    model, tx = GPT(config.model), make_optimizer(cfg)
    rates = learning_rates(cfg, data.n_examples(cfg), config.model.seq_len)
    mesh = make_mesh(microbatch_rows(cfg), config.model_devices)
    state = init_state(model, tx, jax.random.key(0), mesh=mesh)
    dispatcher = Dispatcher(model, tx, jax.random.key(1), rates, cfg, _Quiet(), None, state, mesh)
    return dispatcher, state, data, model, tx, mesh


class _Quiet:
    """Replaces `Progress`: prints nothing, and adds up the seconds spent compiling."""

    left_out = 0.0

    def leave_out(self, seconds: float):
        self.left_out += seconds

    def record(self, *_):
        pass


def torch_train(config: dict, updates: int, **speed):
    """Makes the updates of `jax_train` in PyTorch. The time to prepare batches does not count."""
    import numpy as np
    import torch

    from kgpt_jax.config import from_dict

    config = from_dict(config)
    cfg = config.pretrain
    data = load_data(config)
    starts = itertools.cycle(range(0, data.n_examples(cfg), cfg.batch_size))
    rng = np.random.default_rng(0)

    def batches() -> list:
        made = []
        for start in itertools.islice(starts, updates):
            x_NT, y_NT, _ = data.make(0, 0)(rng)
            rows = slice(start, start + cfg.batch_size)
            made.append([torch.tensor(part[rows], dtype=torch.long) for part in (x_NT, y_NT)])
        return made

    return _torch_updates(config, batches, **speed)


def torch_step(config: dict, rows: int, updates: int, **speed):
    """Makes the updates of `jax_step` in PyTorch."""
    import torch

    from kgpt_jax.config import from_dict

    config = from_dict(config)
    x_BT = torch.tensor(_full_texts(config.model, rows))
    return _torch_updates(config, lambda: [(x_BT, x_BT)] * updates, **speed)


def _torch_updates(config, make_batches, autocast: bool, fused: bool = False, compiled: bool = False):
    import torch

    from benchmarks.torch_peer import PeerGPT, make_optimizer, train_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = PeerGPT(config.model, fused).to(device)
    optimizer = make_optimizer(model, config.pretrain)
    called = torch.compile(model) if compiled else model

    def once() -> dict:
        batches = [[part.to(device) for part in batch] for batch in make_batches()]
        began = time.perf_counter()
        for x_BT, y_BT in batches:
            loss = train_step(called, optimizer, config.pretrain.clip_norm, x_BT, y_BT, autocast)
        loss.item()  # waits for the device
        seconds = (time.perf_counter() - began) / len(batches)
        return {"seconds": seconds, "cells": sum(x_BT.numel() for x_BT, _ in batches) / len(batches)}

    once()
    return once


def jax_seeds(config: dict, updates: int, seeds: int):
    """Makes updates of several models at once by `jax.vmap`, on the same batches in full width."""
    import jax

    from kgpt_jax.config import from_dict
    from kgpt_jax.data.batches import epoch_batches, in_microbatches, stack
    from kgpt_jax.model.gpt import GPT
    from kgpt_jax.train.optimizer import make_optimizer
    from kgpt_jax.train.step import init_state, make_train_steps, zero_sums

    config = from_dict(config)
    data = load_data(config)
    model, tx = GPT(config.model), make_optimizer(config.pretrain)
    microbatches = stack(
        in_microbatches(epoch_batches(data.make(0, 0), config.pretrain, 0, 0)[0], 1) * updates
    )
    train_steps = partial(make_train_steps(model, tx), jax.random.split(jax.random.key(1), seeds))
    state = init_state(model, tx, jax.random.split(jax.random.key(0), seeds))
    return _again_and_again(train_steps, state, zero_sums(state), microbatches)


def jax_step(config: dict, rows: int, updates: int, fused: bool = True):
    """Makes updates by the recipe's optimiser on texts of `seq_len` characters, without padding.

    `fused=False` computes attention without cuDNN's kernel, even on a GPU that has it.
    """
    import jax
    import numpy as np

    from kgpt_jax.config import from_dict
    from kgpt_jax.data.batches import Batch, in_microbatches, stack
    from kgpt_jax.model import attention
    from kgpt_jax.model.gpt import GPT
    from kgpt_jax.train.optimizer import make_optimizer
    from kgpt_jax.train.step import init_state, make_train_steps, zero_sums

    if not fused:
        attention.has_fused_kernel = lambda: False
    config = from_dict(config)
    model, tx = GPT(config.model), make_optimizer(config.pretrain)
    x_BT = _full_texts(config.model, rows).astype(np.int32)
    batch = Batch(x_BT, x_BT, np.ones(rows, np.int32))
    microbatches = stack(in_microbatches(batch, 1) * updates)
    train_steps = partial(make_train_steps(model, tx), jax.random.key(1))
    state = init_state(model, tx, jax.random.key(0))
    return _again_and_again(train_steps, state, zero_sums(state), microbatches)


def _full_texts(cfg, rows: int):
    """Returns random ids without padding, (rows, seq_len), which also serve as targets."""
    import numpy as np

    return np.random.default_rng(0).integers(2, cfg.vocab_size, (rows, cfg.seq_len))


def _again_and_again(train_steps, state, sums, microbatches):
    """Returns a function that makes the same updates in each turn. Every microbatch is a whole batch."""
    import numpy as np

    updates = len(microbatches.last)
    lr_J = np.full(updates, 1e-3, np.float32)

    def once() -> dict:
        nonlocal state, sums
        began = time.perf_counter()
        state, sums, metrics = train_steps(state, sums, microbatches, lr_J, updates)
        np.asarray(metrics["loss"])
        return {"seconds": (time.perf_counter() - began) / updates}

    once()
    return once


def jax_decode(config: dict, params_path: str, questions: list[str], products: str):
    """Answers questions as `--mode=evaluate` does.

    A turn answers them several times and gives the mean, because the first time after a pause is slower.
    """
    import dataclasses

    import jax

    from kgpt_jax.answer.predict import predict
    from kgpt_jax.config import from_dict
    from kgpt_jax.model.gpt import GPT

    config = from_dict(config)
    cfg = dataclasses.replace(config.model, products=products)
    params, vocab = jax.device_put(_load_params(params_path, cfg)), _vocab(config)
    times = 5

    def once() -> dict:
        began = time.perf_counter()
        for _ in range(times):
            answers, _ = predict(GPT(cfg), params, vocab, questions)
        return {"seconds": (time.perf_counter() - began) / times, "answers": answers}

    once()
    return once


def torch_decode(config: dict, params_path: str, questions: list[str]):
    """Answers questions by the course's loop: one at a time, rereading the whole text for each character."""
    import numpy as np
    import torch

    from benchmarks.torch_peer import PeerGPT, answer
    from kgpt_jax.config import from_dict
    from kgpt_jax.data.vocab import MASK, PAD

    config = from_dict(config)
    vocab = _vocab(config)
    model = PeerGPT(config.model)
    with np.load(params_path) as arrays:
        model.load_state_dict({name: torch.tensor(arrays[name]) for name in arrays}, strict=False)

    def once(questions: list[str] = questions) -> dict:
        began, answers = time.perf_counter(), []
        for question in questions:
            prompt_T = torch.tensor(vocab.encode(question + MASK), dtype=torch.long)
            ids = answer(model, prompt_T, MAX_ANSWER, config.model.seq_len)
            answers.append(vocab.decode(np.array(ids, np.int32)).rstrip(PAD))
        return {"seconds": time.perf_counter() - began, "answers": answers}

    once(questions[:1])  # all would take about a minute
    return once


def load_data(config):
    """Returns the examples of pretraining."""
    from kgpt_jax.data.stage_data import load_stage_data

    return load_stage_data(config, "pretrain", _vocab(config)).chunks


def _vocab(config):
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab

    return Vocab.of(corpus.load_documents(config.data).characters)


def _load_params(path: str, cfg):
    import numpy as np

    from kgpt_jax.store.torch_params import from_torch

    with np.load(path) as arrays:
        return from_torch(dict(arrays), cfg)


def jax_roofline(config: dict, updates: int, cores: list[int]):
    """Makes updates on these cores. Measures how long they take, and how long their matrix products alone."""
    os.sched_setaffinity(0, cores)  # before JAX starts its threads
    from benchmarks.roofline import contestant

    return contestant(config, updates)


CONTESTANTS = {
    function.__name__: function
    for function in (
        jax_train,
        torch_train,
        jax_step,
        torch_step,
        jax_seeds,
        jax_decode,
        torch_decode,
        jax_roofline,
    )
}


def peak_mb() -> float:
    """Returns the most memory that this process has held so far, in MB."""
    try:  # on Linux, `ru_maxrss` survives exec, so a process would start with its parent's value
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3
    except (OSError, StopIteration):
        unit = 1e6 if sys.platform == "darwin" else 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main():
    spec = json.loads(sys.argv[1])
    kind = spec.pop("kind")
    if kind.startswith("jax"):
        prepare()
    once = CONTESTANTS[kind](**spec)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(once() | {"peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main()

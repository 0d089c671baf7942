"""What an update's time goes into, and the rate that its matrix products alone attain.

    once = contestant(config, updates=2)
    measured = once()

`python -m benchmarks.benchmark --suite=roofline` does this on one core and on all cores. On one core, no two
operations run at the same time, so that their times add up to the update's.

XLA fuses several operations into one. A fusion with a matrix product counts as a product; any other counts as
the operation that XLA has named it after, which is usually the last.
"""

import math
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from kgpt_jax.environment import cores

# (kind of operation, pattern of its name). A name is a path of modules and operations, such as
# "jit(run)/jvp(GPT)/stack/blocks_0/mlp/up/dot_general". The first pattern that matches decides.
KINDS = (
    ("dropout", r"/Dropout_\d"),
    ("norms", r"/ln\w*/"),
    ("attention", r"->\w*H"),  # named after an `einsum` whose result has heads
    ("products of linear layers", r"/dot_general$"),
    ("transposes, casts, biases", r"/(layout_constraint|convert_element_type)$|/\w+/reduce_sum$"),
    ("attention", r"/attn/"),
    ("GELU", r"/mlp/"),
    ("loss", r"jvp\(\)|take_along_axis"),
    ("optimizer", r"^jit\(run\)/add$"),  # the sums over microbatches
)
OTHER, BETWEEN = "other operations", "between operations"
# The axes of a product of two matrices, as in `lax.dot_general`: a b, and a b^T.
PLAIN, TRANSPOSED = (((1,), (0,)), ((), ())), (((1,), (1,)), ((), ()))


class Product(NamedTuple):
    """A matrix product, as the arguments of `lax.dot_general`, without the factors' values."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    types: tuple[str, str, str]  # of the factors and of the result
    dimensions: tuple

    @property
    def flops(self) -> int:
        """A multiplication and its addition count as two."""
        (contracted, _), (batched, _) = self.dimensions
        left, right = self.shapes
        shared = math.prod(left[i] for i in (*contracted, *batched))
        return 2 * math.prod(left) * math.prod(right) // shared


def equations(jaxpr, times: int | None = 1) -> Iterator[tuple]:
    """Yields the equations of a traced function and of all functions and loops in it.

    Each comes with the number of times that a call of the function computes it; None in a `while`, which does
    not say how often.
    """
    for equation in jaxpr.eqns:
        yield equation, times
        inside = None if equation.primitive.name == "while" else times
        if equation.primitive.name == "scan" and times:
            inside = times * equation.params["length"]
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda one: isinstance(one, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from equations(getattr(value, "jaxpr", value), inside)


def products(function, *args) -> Counter[Product]:
    """Returns how often a call of the function computes each matrix product.

    a b^T counts as a product of a with a matrix that is already transposed, so that its time alone holds no
    transpose.

    Raises:
      ValueError: a `while` computes a product, and does not say how often.
    """
    found = Counter()
    for equation, times in equations(jax.make_jaxpr(function)(*args).jaxpr):
        if equation.primitive.name == "dot_general":
            if times is None:
                raise ValueError(f"a loop does not say how often it computes a product: {equation}")
            arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
            shapes = tuple(array.shape for array in arrays[:2])
            types = tuple(str(array.dtype) for array in arrays)
            dimensions = equation.params["dimension_numbers"]
            if dimensions == TRANSPOSED:
                shapes, dimensions = (shapes[0], shapes[1][::-1]), PLAIN
            found[Product(shapes, types, dimensions)] += times
    return found


def timer(product: Product, least: float = 0.02) -> Callable[[], float]:
    """Compiles a product of random factors, and returns a function that measures it.

    The function repeats the product for at least `least` seconds, and returns the median time in seconds.
    """
    rng = np.random.default_rng(0)
    left, right = (
        jnp.asarray(rng.standard_normal(shape, np.float32), type)
        for shape, type in zip(product.shapes, product.types)
    )
    result = product.types[2]
    multiply = jax.jit(lambda a, b: lax.dot_general(a, b, product.dimensions, preferred_element_type=result))
    multiply(left, right).block_until_ready()

    def measure() -> float:
        took = []
        while sum(took) < least:
            began = time.perf_counter()
            multiply(left, right).block_until_ready()
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    return measure


def kind_of(name: str) -> str:
    """Returns the kind of an operation.

    >>> kind_of("jit(run)/jvp(GPT)/stack/blocks_0/mlp/up/dot_general")
    'products of linear layers'
    >>> kind_of("jit(run)/jvp(GPT)/stack/blocks_0/attn/readout/Dropout_0/xor")
    'dropout'
    """
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), OTHER)


def names_of(program: str) -> dict[str, str]:
    """Returns the name of each instruction of a compiled program: the path of its module and operation.

    XLA names a fusion after one of its operations. A fusion with a matrix product is named after the product
    here, which takes most of the time. The names of all products end in "/dot_general".

    Args:
      program: the program as XLA prints it.
    """
    names, product_in, computation = {}, {}, ""
    for line in program.splitlines():
        if header := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
            computation = header[1]
        elif found := re.match(r'\s+(?:ROOT )?%([\w.-]+) = .*op_name="([^"]*)"', line):
            instruction, name = found.groups()
            if re.search(r" dot\(", line):
                name = product_in[computation] = f"{name.removesuffix('/dot_general')}/dot_general"
            if (called := re.search(r" fusion\(.* calls=%([\w.-]+)", line)) and called[1] in product_in:
                name = product_in[called[1]]
            names[instruction] = name
    return names


def own_seconds(events: list[tuple[float, float, str]]) -> Counter[str]:
    """Returns the seconds of each name, without those of the events inside an event.

    Args:
      events: (start, end, name) of one thread, in nanoseconds.

    >>> own_seconds([(0, 4e9, "loop"), (1e9, 2e9, "a"), (2e9, 3e9, "a")])
    Counter({'loop': 2.0, 'a': 2.0})
    """
    found, open_events = Counter(), []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_events and open_events[-1][0] <= start:
            open_events.pop()
        found[name] += (end - start) / 1e9
        if open_events:
            found[open_events[-1][1]] -= (end - start) / 1e9
        open_events.append((end, name))
    return found


def traced(call: Callable[[], None], kinds: dict[str, str], other: str = OTHER) -> Counter[str]:
    """Calls a compiled program, and returns the seconds of each kind of operation; they add up to the call's.

    Args:
      call: takes no arguments, and returns when the program has ended. It must run on one core.
      kinds: the kind of each instruction of the program.
      other: the kind of instructions that `kinds` lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            call()
            took = time.perf_counter() - began
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        found = Counter()
        for thread in (line for plane in planes for line in plane.lines if "XLA" in line.name):
            events = [
                (event.start_ns, event.start_ns + event.duration_ns, event.name)
                for event in thread.events
                if not event.name.startswith(("ThunkExecutor", "end: "))
            ]
            for name, seconds in own_seconds(events).items():
                found[kinds.get(name, other)] += seconds
    found[BETWEEN] = took - found.total()
    return found


def contestant(config: dict, updates: int) -> Callable[[], dict]:
    """Returns a function that makes updates on the same microbatches again and again.

    It returns, for one update: its "seconds"; the seconds of its matrix products "alone", and their "flops";
    the "widths" of its microbatches in characters; and on one core the seconds of each of the "kinds" of
    operations, from one more update that is traced.

    If n threads share the microbatches, n threads each compute all products at the same time. "alone" is then
    the mean of their times, divided by n.
    """
    from benchmarks.contestants import training
    from kgpt_jax.config import from_dict
    from kgpt_jax.data.batches import epoch_batches, in_microbatches
    from kgpt_jax.train.feed import n_microbatches
    from kgpt_jax.train.step import (
        apply_gradient,
        make_add_microbatch,
        make_end_update,
        weighted_loss,
        zero_sums,
    )

    config = from_dict(config)
    cfg = config.pretrain
    dispatcher, state, data, model, tx, mesh = training(config)
    key, sums, rate = dispatcher.dropout_key, zero_sums(state), np.float32(1e-3)
    microbatches = in_microbatches(epoch_batches(data.make(0, 0), cfg, 0, 0)[0], n_microbatches(cfg))
    counts = products(lambda state: apply_gradient(tx, state, state.params, rate), state)
    add, kinds_of = make_add_microbatch(model, mesh), {}
    for microbatch in microbatches:
        loss = partial(weighted_loss, model=model, microbatch=microbatch, key=key)
        counts += products(jax.value_and_grad(loss), state.params)
        width = microbatch.batch.x_BT.shape[1]
        if cores() == 1 and width not in kinds_of:
            program = add.lower(key, state.params, state.step, sums, microbatch).compile()
            names = names_of(program.as_text())
            kinds_of[width] = {instruction: kind_of(name) for instruction, name in names.items()}

    def add_one(microbatch):
        nonlocal sums
        sums = jax.block_until_ready(add(key, state.params, state.step, sums, microbatch))

    def end():
        nonlocal state, sums
        state, (sums,), _ = jax.block_until_ready(make_end_update(tx, mesh)(state, [sums], rate))

    def trace() -> Counter[str]:
        found = traced(end, {}, other="optimizer")
        for microbatch in microbatches:
            found.update(traced(partial(add_one, microbatch), kinds_of[microbatch.batch.x_BT.shape[1]]))
        return found

    timers = {product: timer(product) for product in counts}

    def alone(_) -> float:
        return sum(n * timers[product]() for product, n in counts.items())

    def once() -> dict:
        nonlocal state
        queue = [(i, microbatch) for i in range(updates) for microbatch in microbatches]
        began, dispatcher.progress.left_out = time.perf_counter(), 0.0
        while queue:
            state, n = dispatcher.send(state, queue)
            queue = queue[n:]
        dispatcher.collect(under_way=0)
        seconds = time.perf_counter() - began - dispatcher.progress.left_out
        n_threads = max(dispatcher.n_threads, 1)
        with ThreadPoolExecutor(n_threads) as threads:
            of_products = statistics.mean(threads.map(alone, range(n_threads))) / n_threads
        return {
            "seconds": seconds / updates,
            "alone": of_products,
            "flops": sum(n * product.flops for product, n in counts.items()),
            "kinds": trace() if cores() == 1 else {},
            "widths": [microbatch.batch.x_BT.shape[1] for microbatch in microbatches],
        }

    once()
    return once

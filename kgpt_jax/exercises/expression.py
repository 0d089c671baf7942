"""The language in which answers are written: `2 * u - v / L**2`, `norm(u) * u @ v.T`.

    language = Language(names={"u", "v", "L"}, functions={"norm"})
    parse("2 * u - v / L**2", language).value({"L": 20.0, "u": u_D1, "v": v_D1})

Python's parser reads the text, and `_Reader` walks over the tree that it returns. It refuses every kind of
node that it does not know. Nothing is executed, so an answer can do nothing but arithmetic.

A value is an array (N, rows, columns): N draws, or N = 1 if it is the same in all draws. A number has one row
and one column, a column vector has one column. Values are float64, or complex128 where a given is complex.
"""

import ast
import difflib
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import UserError

MAX_CHARACTERS, MAX_NODES, MAX_DEPTH = 2_000, 400, 60
MAX_NUMBER, MAX_POWER = 10**12, 8
MAX_ENTRIES = 3_000_000  # of one value
MAX_WORK = 2e10  # multiplications for one answer, a few seconds
WORK_OF_ENTRY = 30  # multiplications of a matrix product that take as long as one entry of another operation
GREEK = dict(
    pair.split("=")
    for pair in (
        "α=alpha β=beta γ=gamma δ=delta ε=eps ϵ=eps ζ=zeta η=eta θ=theta ϑ=theta κ=kappa λ=lambda μ=mu ν=nu "
        "ξ=xi π=pi ρ=rho σ=sigma τ=tau φ=phi ϕ=phi χ=chi ψ=psi ω=omega"
    ).split()
)
LAMBDA = "lambd_"  # what `lambda` is called while Python, whose keyword it is, parses the text
SUMS = ("others", "total")  # functions of a family's name
WRITE = {
    ast.BitXor: "write ** for a power",
    ast.Compare: "an answer is one expression, without = or <",
    ast.Subscript: "write an underscore, as in v_a",
    ast.Tuple: "an answer is one expression, without commas",
}

Values = Mapping[str, object]
Compute = Callable[[Values], np.ndarray]


class Unreadable(UserError):
    """An answer that cannot be read. The message gives the column, counted from 1."""


class Budget:
    """The multiplications that computing an answer may still take."""

    def __init__(self, work: float = MAX_WORK):
        self.left = work

    def spend(self, work: float):
        self.left -= work
        if self.left < 0:
            raise Unreadable("it takes too long to compute: write it with fewer products")


class Language(NamedTuple):
    """What a question gives.

    Attributes:
      names: of its values.
      families: names such as `k`. `total(k)` is the sum of all keys, `others(k)` that of the unnamed ones.
      functions: names of general functions (FUNCTIONS).
      own: functions that the question defines, with their number of arguments.
      budget: what computing may cost; all expressions of an answer share it.
    """

    names: Collection[str]
    families: Collection[str] = ()
    functions: Collection[str] = ()
    own: Mapping[str, int] = {}
    budget: Budget | None = None


class Expression(NamedTuple):
    """A parsed answer: its tree, the names in it ("exp()" for functions), and what computes it."""

    tree: ast.expr
    names: frozenset[str]
    compute: Compute

    def value(self, given: Values) -> np.ndarray:
        """Computes the answer.

        Args:
          given: for each name a number, an array (rows, columns) or an array (N, rows, columns). For a family
            `k`, also "others(k)" and "total(k)". For a function `f` of the question, "f()", which takes and
            returns values. A value for "exp()" replaces the general function exp, in this call only.

        Returns:
          The value, (N, rows, columns). Its entries may be infinite or NaN.

        Raises:
          Unreadable: shapes do not fit, or a value is too large.
        """
        with np.errstate(all="ignore"):
            return self.compute(given)


def parse(text: str, language: Language) -> Expression:
    """Parses an answer.

    Raises:
      Unreadable: the text is no expression of the language, or is too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"it has {len(text):,} characters: give at most {MAX_CHARACTERS:,}")
    for column, character in enumerate(text, 1):
        if character in "#\\\"'`;" or not character.isprintable() and character not in "\n\t":
            raise Unreadable(f"column {column}: {character!r} has no meaning here")
    text = text.replace("\n", " ").replace("\t", " ")
    reader = _Reader(text, language)
    if not text.strip():
        raise Unreadable("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about numbers such as `1if`, which are refused below
            tree = ast.parse(re.sub(r"\blambda\b", LAMBDA, text.lstrip()), mode="eval").body
    except SyntaxError as error:
        column = len(text) - len(text.lstrip()) + max(1, error.offset or 1)
        raise Unreadable(f"column {min(column, len(text))}: this is not an expression") from None
    except (ValueError, RecursionError, MemoryError):
        raise Unreadable("it is nested too deeply, or has a number with too many digits") from None
    compute = reader.read(tree, 1)
    return Expression(tree, frozenset(reader.used), compute)


def shape_name(value: np.ndarray) -> str:
    """Returns the shape of a value in words: "a number", "a column of 4", "a 4 x 8 matrix"."""
    rows, columns = value.shape[-2:]
    if rows == columns == 1:
        return "a number"
    if columns == 1:
        return f"a column of {rows}"
    return f"a row of {columns}" if rows == 1 else f"a {rows} x {columns} matrix"


def _name(node: ast.AST) -> str:
    return latin(node.id) if isinstance(node, ast.Name) else ""


def latin(name: str) -> str:
    """Returns a name with Greek letters spelled out."""
    name = "".join(GREEK.get(letter, letter) for letter in name)
    return {LAMBDA: "lambda", "epsilon": "eps"}.get(name, name)


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:30]}..."


class _Reader:
    """Turns the tree of one answer into a function, and refuses what the language does not have."""

    def __init__(self, text: str, language: Language):
        self.language = language
        self.body = text.lstrip().encode()
        self.indent = len(text) - len(text.lstrip())
        self.n_nodes, self.used = 0, set()

    def refuse(self, node: ast.AST, why: str) -> Unreadable:
        # Python counts the bytes of UTF-8.
        column = self.indent + len(self.body[: node.col_offset].decode(errors="ignore")) + 1
        return Unreadable(f"column {column}: {why}")

    def read(self, node: ast.expr, depth: int) -> Compute:
        """Returns the function that computes a node from the given values."""
        self.n_nodes += 1
        if depth > MAX_DEPTH or self.n_nodes > MAX_NODES:
            raise Unreadable(f"it has more than {MAX_NODES} parts, or is nested more than {MAX_DEPTH} deep")
        match node:
            case ast.Constant():
                return self.constant(node)
            case ast.Name():
                return self.name(node)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.read(node.operand, depth + 1)
            case ast.UnaryOp(op=ast.USub()):
                inner = self.read(node.operand, depth + 1)
                return lambda given: -inner(given)
            case ast.BinOp(op=ast.Pow()):
                return self.power(node, depth)
            case ast.BinOp() if type(node.op) in OPERATORS:
                left, right = self.read(node.left, depth + 1), self.read(node.right, depth + 1)
                operate = partial(OPERATORS[type(node.op)], self, node)
                return lambda given: operate(left(given), right(given))
            case ast.Attribute(attr="T"):
                inner = self.read(node.value, depth + 1)
                return lambda given: np.swapaxes(inner(given), 1, 2)
            case ast.Call():
                return self.call(node, depth)
        kind = type(node.op) if isinstance(node, ast.BinOp | ast.UnaryOp) else type(node)
        if isinstance(node, ast.Attribute):
            raise self.refuse(node, f"only .T, the transpose, may follow a dot, not .{_short(node.attr)}")
        if isinstance(node, ast.BinOp):  # the column of the operator, not of its left side
            end = node.left.end_col_offset
            between = self.body[end : node.right.col_offset]
            node.col_offset = end + len(between) - len(between.lstrip(b" \t)"))
        raise self.refuse(node, WRITE.get(kind, "use + - * / @ **, .T, names, numbers and functions"))

    def constant(self, node: ast.Constant) -> Compute:
        if type(node.value) not in (int, float):
            raise self.refuse(node, "only whole and decimal numbers have a meaning here")
        if not node.value <= MAX_NUMBER:  # compared as it is, since 10**400 cannot become a float
            raise self.refuse(node, f"numbers go up to {MAX_NUMBER:.0e}")
        value = np.full((1, 1, 1), float(node.value))
        return lambda given: value

    def name(self, node: ast.Name) -> Compute:
        name = latin(node.id)
        if name in self.language.families:
            raise self.refuse(node, f"{name} alone is no vector: write {name}_a, or total({name})")
        if name in self.callable() and name not in self.language.names:
            raise self.refuse(node, f"{name} is a function: write {name}(...)")
        if name not in self.language.names:
            raise self.refuse(node, self.unknown(name, self.language.names, "name"))
        self.used.add(name)

        def compute(given: Values) -> np.ndarray:
            value = np.asarray(given[name]) * 1.0  # the powers of a large integer would overflow
            return value.reshape((1,) * (3 - value.ndim) + value.shape)

        return compute

    def power(self, node: ast.BinOp, depth: int) -> Compute:
        base, exponent = self.read(node.left, depth + 1), node.right
        sign = 1
        if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
            sign, exponent = -1, exponent.operand
        whole = isinstance(exponent, ast.Constant) and type(exponent.value) is int
        if not whole or exponent.value > MAX_POWER:
            raise self.refuse(node.right, f"a power must be a whole number from -{MAX_POWER} to {MAX_POWER}")

        def compute(given: Values) -> np.ndarray:
            value = base(given)
            if value.shape[1:] != (1, 1):
                raise self.refuse(node, f"** needs a number on its left, and this is {shape_name(value)}")
            power = np.prod([value] * exponent.value, axis=0) if exponent.value else np.ones_like(value)
            return power if sign > 0 else 1 / power

        return compute

    def call(self, node: ast.Call, depth: int) -> Compute:
        name = _name(node.func)
        if name not in self.callable():
            if name in self.language.names:
                raise self.refuse(node, f"{_short(name)} is no function: write {_short(name)} * (...)")
            raise self.refuse(node, self.unknown(name, self.callable(), "function"))
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self.refuse(node, f"{name} takes plain arguments")
        if name in SUMS:
            family = _name(node.args[0]) if len(node.args) == 1 else ""
            if family not in self.language.families:
                choices = " or ".join(f"{name}({each})" for each in sorted(self.language.families))
                raise self.refuse(node, f"write {choices}")
            key = f"{name}({family})"
            self.used.add(key)
            return lambda given: np.asarray(given[key])[None]
        self.used.add(f"{name}()")
        n_arguments = self.language.own[name] if name in self.language.own else FUNCTIONS[name][1]
        if len(node.args) != n_arguments:
            raise self.refuse(node, f"{name} takes {n_arguments} argument{'s' if n_arguments > 1 else ''}")
        arguments = [self.read(argument, depth + 1) for argument in node.args]

        def compute(given: Values) -> np.ndarray:
            function = given[f"{name}()"] if f"{name}()" in given else FUNCTIONS[name][0]
            try:
                values = [argument(given) for argument in arguments]
                self.spend(WORK_OF_ENTRY * sum(value.size for value in values))
                return self.sized(node, function(*values))
            except Misfit as error:
                raise self.refuse(node, f"{name} {error}") from None

        return compute

    def callable(self) -> list[str]:
        return [*self.language.functions, *self.language.own, *(SUMS if self.language.families else ())]

    def unknown(self, name: str, known: Collection[str], kind: str) -> str:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = f"this question gives {', '.join(sorted(known)) or 'none'}"
        return f"there is no {kind} {_short(name)}: {hint}{listed}" if name else f"not a {kind}: {listed}"

    def sized(self, node: ast.AST, value: np.ndarray) -> np.ndarray:
        if value.size > MAX_ENTRIES:
            raise self.refuse(node, f"{shape_name(value)} is too large here")
        self.spend(WORK_OF_ENTRY * value.size)
        return value

    def spend(self, work: float):
        if self.language.budget is not None:
            self.language.budget.spend(work)

    def add(self, node: ast.BinOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if left.shape[1:] != right.shape[1:]:
            what = "adds" if isinstance(node.op, ast.Add) else "subtracts"
            raise self.refuse(node, f"this {what} {shape_name(left)} and {shape_name(right)}")
        return self.sized(node, left + right if isinstance(node.op, ast.Add) else left - right)

    def multiply(self, node: ast.BinOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if (1, 1) not in (left.shape[1:], right.shape[1:]):
            why = f"* needs a number on one side, and these are {shape_name(left)} and {shape_name(right)}"
            raise self.refuse(node, f"{why}: write @")
        return self.sized(node, left * right)

    def divide(self, node: ast.BinOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if right.shape[1:] != (1, 1):
            raise self.refuse(node, f"this divides by {shape_name(right)}")
        return self.sized(node, left / right)

    def matmul(self, node: ast.BinOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if left.shape[2] != right.shape[1]:
            hint = ": write *" if (1, 1) in (left.shape[1:], right.shape[1:]) else ""
            raise self.refuse(node, f"@ does not fit {shape_name(left)} and {shape_name(right)}{hint}")
        n_draws = max(len(left), len(right))
        if n_draws * left.shape[1] * right.shape[2] > MAX_ENTRIES:
            raise self.refuse(node, "this product is too large here")
        self.spend(n_draws * left.shape[1] * left.shape[2] * right.shape[2])
        return left @ right


OPERATORS = {
    ast.Add: _Reader.add,
    ast.Sub: _Reader.add,
    ast.Mult: _Reader.multiply,
    ast.Div: _Reader.divide,
    ast.MatMult: _Reader.matmul,
}


class Misfit(Exception):
    """Arguments whose shapes do not fit a function."""


def _of_vector(function: Callable) -> Callable:
    def checked(x: np.ndarray) -> np.ndarray:
        if 1 not in x.shape[1:]:
            raise Misfit(f"needs a vector, and this is {shape_name(x)}")
        return function(x)

    return checked


def _of_columns(function: Callable) -> Callable:
    def checked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.shape[2] != 1 or y.shape[2] != 1:
            raise Misfit(f"needs two columns, and these are {shape_name(x)} and {shape_name(y)}")
        return function(x, y)

    return checked


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Re(conj(x) y), summed over the entries. For real columns this is the usual dot product."""
    if x.shape[1] != y.shape[1]:
        raise Misfit(f"needs columns of one size, and these are {shape_name(x)} and {shape_name(y)}")
    return np.sum(np.conj(x) * y, axis=(1, 2), keepdims=True).real


def softmax(x: np.ndarray) -> np.ndarray:
    """Returns the softmax of a column over its entries, and of a matrix over each row."""
    axis = 1 if x.shape[2] == 1 else 2
    shifted = np.exp(x - x.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x.real))  # exp(-x) alone overflows


def _outer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.shape[1] * y.shape[1] * max(len(x), len(y)) > MAX_ENTRIES:
        raise Misfit("makes too large a matrix here")
    return x * np.swapaxes(y, 1, 2)


def _over_entries(function: Callable) -> Callable:
    return _of_vector(lambda x: function(x.real, axis=(1, 2), keepdims=True))


# name: (function, number of arguments)
FUNCTIONS: dict[str, tuple[Callable, int]] = {
    "outer": (_of_columns(_outer), 2),
    "dot": (_of_columns(_dot), 2),
    "norm": (_of_vector(lambda x: np.sqrt(np.sum(np.abs(x) ** 2, axis=(1, 2), keepdims=True))), 1),
    "exp": (_of_vector(np.exp), 1),
    "log": (_of_vector(np.log), 1),
    "sqrt": (_of_vector(np.sqrt), 1),
    "cos": (_of_vector(np.cos), 1),
    "sin": (_of_vector(np.sin), 1),
    "sigmoid": (_of_vector(_sigmoid), 1),
    "softmax": (softmax, 1),
    "relu": (lambda x: np.maximum(x, 0), 1),
    "max": (_over_entries(np.max), 1),
    "min": (_over_entries(np.min), 1),
    "sum": (_of_vector(lambda x: np.sum(x, axis=(1, 2), keepdims=True)), 1),
    "re": (lambda x: x.real, 1),
    "conj": (lambda x: np.conj(x), 1),
}

"""An open-book reader: finds the answer to a question in the lines about its name.

    reader = train([(lines, "Ada Bell", "Rome"), ...])   # seconds
    reader.read(lines_about_cy, "Cy Do")                 # {"Oslo": Likely(0.9, Place(0, 15, 19)), ...}

Each sequence of up to MAX_WORDS words and punctuation marks of a line is a candidate. Its score is a sum of
weights, one for each of its features: the words around it, what it looks like, its place in the line, how
often it is the answer to another question. One more candidate says that the answer is not in the lines. A
softmax over all candidates of a question turns scores into probabilities. Training raises the probability of
the right answer, wherever it stands in the lines (a log-linear model: Berger et al., Computational
Linguistics 22, 1996). Nothing about births, people or English is built in.

Axes: `N` questions, `S` candidates of all questions, `K` features of a candidate.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_WORDS = 5  # words and punctuation marks of a candidate
WEIGHTS = 2**18  # features share a weight if their hashes are equal
UPDATES, RATE, DECAY = 120, 0.1, 3e-4
# Words also have marks, which \w leaves out: accents that follow their letter, and vowels in Hindi and Thai.
_MARKS = "".join(char for char in map(chr, range(0x300, 0x1000)) if unicodedata.category(char)[0] == "M")
_LETTER = rf"[\w{_MARKS}]"
_WORD = re.compile(rf"{_LETTER}+(?:[.\-&/]{_LETTER}+)*\.?|[^\w\s]")  # not "Leeds's": "Leeds" may be an answer
_DIGIT = re.compile(r"\d")
NOT_THERE = ""
LEAST_PROBABILITY = 0.5  # the reader's answer is given, or taught, if it is more probable than this
EDGE, OWN = "|", "*"  # stand for what is beyond a line, and for the words of the name
AROUND = 4  # words beside a candidate

Lesson = tuple[Sequence[str], str, str]  # the lines about a name, the name, the answer


class Place(NamedTuple):
    """Characters `start` to `end` of line `line` among a question's lines."""

    line: int
    start: int
    end: int


class Likely(NamedTuple):
    """A candidate's probability, and the likeliest place where it stands."""

    probability: float
    span: Place


class Candidates(NamedTuple):
    """The candidates of one question.

    Attributes:
      spans: where each stands.
      texts: what each says; the last one, "", says that the answer is not there.
      features: (S, K), the numbers of its weights.
    """

    spans: list[Place]
    texts: list[str]
    features: np.ndarray


def kind(word: str) -> str:
    """Returns what a word looks like.

    >>> [kind(word) for word in ("Rome", "of", "1840", "NASA", ",")]
    ['A', 'a', '1', 'AA', ',']
    """
    if word[0].isdigit():
        return "1"
    if not word[0].isalpha():
        return word
    if not word[0].isupper():
        return "a"
    return "AA" if len(word) > 1 and word.isalpha() and word.isupper() else "A"


@cache
def _number(*feature: object) -> int:
    """Returns the number of a feature's weight."""
    return zlib.crc32("\t".join(map(str, feature)).encode()) % WEIGHTS


def candidates(lines: Sequence[str], name: str, answers: Counter, own: str | None = None) -> Candidates:
    """Returns the candidates in the lines about a name.

    Args:
      lines: the lines.
      name: the name.
      answers: how often each text is the answer to a training question.
      own: in training, the right answer. It is counted once less in `answers`, as for a new question.
    """
    spans, texts, rows, n_known = [], [], [], 0
    for number, line in enumerate(lines):
        found = list(_WORD.finditer(line))
        words = [word.group() for word in found]
        pieces = _pieces(line, found)
        counts = {text: answers[text] - (text == own) for *_, text in pieces}
        described = _described(words, [piece for piece in pieces if counts[piece[2]]], set(name.split()))
        for first, end, text in pieces:
            start = found[first].start()
            spans.append(Place(number, start, start + len(text)))
            texts.append(text)
            rows.append(described(first, end, counts[text]))
        n_known += len({text for *_, text in pieces if counts[text]})
    width = len(_described(["a"], [], set())(0, 1, 0))  # as many features as any candidate has
    rows.append([_number("not there", i, min(n_known, 4)) for i in range(width)])
    return Candidates([*spans, Place(0, 0, 0)], [*texts, NOT_THERE], np.array(rows, np.int32))


def _pieces(line: str, found: Sequence[re.Match]) -> list[tuple[int, int, str]]:
    """Returns (first word, word after the last, text) of each sequence of words that may be an answer."""
    pieces = []
    for first in range(len(found)):
        for end in range(first + 1, min(first + MAX_WORDS, len(found)) + 1):
            text = line[found[first].start() : found[end - 1].end()]
            if text[0].isalnum() and found[end - 1].group()[0].isalnum():
                pieces.append((first, end, text[:-1] if _ends_sentence(found, end) else text))
    return pieces


def _ends_sentence(found: Sequence[re.Match], end: int) -> bool:
    """Returns whether the word before `end` has a full stop that belongs to the sentence, not to the word.

    The full stop of "Rome." belongs to the sentence if the line ends there, or if neither a small letter nor
    ",", ";", ":" or ")" follows. That of "D.C." never does.
    """
    word, following = found[end - 1].group(), found[end].group()[0] if end < len(found) else "A"
    return word.find(".") == len(word) - 1 and not following.islower() and following not in ",;:)"


def _described(words: list[str], answers: Sequence[tuple[int, int, str]], of_name: set[str]):
    """Returns the function that gives the features of words `first` to `end` of a line.

    Args:
      words: the words of the line.
      answers: the pieces of the line that are answers to training questions.
      of_name: the words of the name.
    """
    kinds = [kind(word) for word in words]
    edge = [EDGE] * AROUND
    # Numbers look alike: "1914 Leeds" is like "1836 York".
    padded = edge + [OWN if word in of_name else _DIGIT.sub("0", word) for word in words] + edge
    padded_kinds = edge + kinds + edge
    longest = _apart(answers)  # of overlapping ones
    ends_of_answers = np.array([end for _, end in longest], int)
    depths = np.cumsum([0] + [(word == "(") - (word == ")") for word in words])
    sentences = np.cumsum([0] + [word in ".;" for word in words])

    @cache
    def before(first: int) -> list[int]:
        a, b, c, d = padded[first : first + AROUND]
        names: list[tuple] = [("-1", d), ("-2 -1", c, d), ("-3 to -1", b, c, d), ("-4 to -1", a, b, c, d)]
        names += [("-2", c), ("-3", b), ("-4", a), ("place", min(first // 6, 2))]
        names += [("inside", depths[first] > 0, min(sentences[first], 3))]
        return [_number(*each) for each in names]

    @cache
    def after(end: int) -> list[int]:
        e, f, g, _ = padded[AROUND + end : AROUND + end + 4]
        return [_number(*each) for each in (("+1", e), ("+1 +2", e, f), ("+1 to +3", e, f, g), ("+2", f))]

    def features(first: int, end: int, count: int) -> list[int]:
        d, c = padded[AROUND + first - 1], padded[AROUND + first - 2]
        e = padded[AROUND + end]
        shape, known = " ".join(kinds[first:end]), min(count.bit_length(), 6)
        rank = min(int((ends_of_answers <= first).sum()), 4)  # known answers before it
        kind_before, kind_after = padded_kinds[AROUND + first - 2 :][:2], padded_kinds[AROUND + end + 1]
        names: list[tuple] = [
            ("shape", shape),
            ("known", known),
            ("known shape", known, shape),
            ("around", d, e),
            ("shape -1", shape, d),
            ("known -2 -1", min(known, 2), c, d),
            ("known +1", min(known, 2), e),
            ("own", any(word in of_name for word in words[first:end])),
            ("first", words[first] if words[first][0].islower() else "A"),
            ("kinds before", *kind_before, d),
            ("kinds after", e, kind_after),
            ("rank", known > 0, rank),
            ("longest", known > 0, (first, end) in longest),
            ("rank -1", known > 0, min(rank, 2), d),
            ("alone", known > 0, min(len(longest), 4)),
        ]
        return before(first) + after(end) + [_number(*each) for each in names]

    return features


def _apart(pieces: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Returns (first, end) of pieces that do not overlap, from the left, the longest of each beginning."""
    apart: list[tuple[int, int]] = []
    for first, end, _ in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
        if not apart or first >= apart[-1][1]:
            apart.append((first, end))
    return apart


class Reader(NamedTuple):
    """A trained reader.

    Attributes:
      weights: the weight of each feature.
      answers: how often each text is the answer to a training question.
    """

    weights: np.ndarray
    answers: Counter

    def read(self, lines: Sequence[str], name: str) -> dict[str, Likely]:
        """Returns the candidates in the lines about a name, the likeliest first."""
        return _shared(candidates(lines, name, self.answers), self.weights)


def _shared(found: Candidates, weights: np.ndarray) -> dict[str, Likely]:
    """Returns the probability of each text, the sum over its spans, without that of no text."""
    score_S = weights[found.features].sum(1)
    share_S = np.exp(score_S - score_S.max())
    share_S /= share_S.sum()
    texts: dict[str, Likely] = {}
    for i in np.argsort(-share_S, kind="stable"):
        text, share = found.texts[i], float(share_S[i])
        before = texts.get(text, Likely(0.0, found.spans[i]))
        texts[text] = before._replace(probability=before.probability + share)
    del texts[NOT_THERE]
    return dict(sorted(texts.items(), key=lambda item: -item[1].probability))


def train(asked: Sequence[Lesson]) -> Reader:
    """Trains a reader on the lines, the name and the answer of each training question."""
    answers = Counter(answer for *_, answer in asked)
    each = [candidates(lines, name, answers, answer) for lines, name, answer in asked]
    right = []
    for found, (*_, answer) in zip(each, asked):
        sought = answer if answer in found.texts else NOT_THERE
        right.append(np.array([text == sought for text in found.texts]))
    return Reader(_fit(each, right), answers)


def _fit(each: Sequence[Candidates], right: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the weights that give the right candidates the highest probability, with L2 regularization."""
    import optax  # here: the import is slow, and only training a reader needs it

    n = len(each)
    feature_SK = jnp.asarray(np.concatenate([of.features for of in each]))
    right_S = jnp.asarray(np.concatenate(right))
    owner_S = jnp.asarray(np.repeat(np.arange(n), [len(right_S) for right_S in right]))

    def loss(weights):
        score_S = weights[feature_SK].sum(1)
        most_N = jax.ops.segment_max(score_S, owner_S, n)
        share_S = jnp.exp(score_S - most_N[owner_S])
        all_N = jax.ops.segment_sum(share_S, owner_S, n)
        right_N = jax.ops.segment_sum(jnp.where(right_S, share_S, 0), owner_S, n)
        return (jnp.log(all_N) - jnp.log(right_N)).mean() + DECAY * (weights**2).sum()

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, UPDATES))

    def update(carry, _):
        weights, state = carry
        change, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, change), state), None

    start = jnp.zeros(WEIGHTS)
    (weights, _), _ = jax.jit(lambda: jax.lax.scan(update, (start, optimizer.init(start)), None, UPDATES))()
    return np.asarray(weights)

"""Predictions for questions, exact match with its interval, and constant baselines."""

import statistics
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.answer.beam import best_entries
from kgpt_jax.answer.decode import WIDTH_STEP, check_rows, continue_texts, pad_prompts
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from kgpt_jax.outputs import cannot_write
from kgpt_jax.train.sharding import to_numpy

MAX_ANSWER = 32  # characters, as in the course
ROWS = 64  # questions answered at once; more would save less than their padding costs


class Score(NamedTuple):
    """How many answers are right to the letter."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.total)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % score interval for a proportion (JASA 22, 1927, p. 209).

    >>> [round(end, 4) for end in wilson_interval(25, 500)]
    [0.0341, 0.0728]
    """
    from scipy.stats import binomtest  # not above: it takes up to a second, and most commands score nothing

    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return float(low), float(high)


def mean_interval(shares: list[float]) -> tuple[float, float]:
    """Returns Student's 95 % interval for the mean of shares, one of each seed, cut to 0 .. 1.

    >>> [round(end, 4) for end in mean_interval([0.7, 0.8, 0.9])]
    [0.5516, 1.0]
    """
    if len(shares) < 2:
        return 0.0, 1.0
    from scipy.stats import t

    mean, n = statistics.mean(shares), len(shares)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(shares) / n**0.5
    return max(mean - half, 0.0), min(mean + half, 1.0)


def paired_interval(differences: list[float], z: float = 1.959964) -> tuple[float, float]:
    """Returns the normal 95 % interval for a mean difference, of one difference for each question.

    What makes a question hard for both sides cancels, which makes it narrower than two separate intervals.
    A single question says nothing.

    >>> [round(end, 4) for end in paired_interval([1, 0, 0, 1])]
    [-0.0658, 1.0658]
    """
    if len(differences) < 2:
        return -1.0, 1.0
    half = z * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def vote(answers: list[list[str]]) -> list[str]:
    """Returns what most models say to each question; among equals, what the first of them says.

    >>> vote([["Rome", "Oslo"], ["Paris", "Bonn"], ["Rome", "Cork"]])
    ['Rome', 'Oslo']
    """
    return [Counter(said).most_common(1)[0][0] for said in zip(*answers, strict=True)]


def predict(
    model, params, vocab: Vocab, questions: list[str], trie: np.ndarray | None = None, beams: int = 4
) -> tuple[list[str], list[str]]:
    """Returns an answer for each question, in their order, and notes on those read with losses.

    An answer is what the model writes greedily or, given a trie (`answer/beam.py`), the likeliest of its
    entries that a search with so many beams finds.

    Characters that the vocabulary lacks are left out; a question that leaves no room for an answer gets
    the empty one. An answer has no line breaks, so that it fills one line of a file.
    """
    text_length = model.cfg.seq_len + 1
    notes, prompts = [], []
    for number, question in enumerate(questions, 1):
        if unknown := vocab.unknown(question):
            notes.append(f"question {number}: left out {unknown!r}, which the vocabulary lacks")
            question = "".join(c for c in question if c not in unknown)
        if len(question) + 2 > text_length:
            notes.append(
                f"question {number}: answered with nothing, its {len(question)} characters are more "
                f"than the {text_length - 2} that fit"
            )
            prompts.append(np.zeros(0, np.int32))
        else:
            prompts.append(vocab.encode(question + MASK))
    if trie is None:
        # Greedy: the key is never drawn from.
        write = partial(continue_texts, key=jax.random.key(0), max_new=MAX_ANSWER, stop_at_mask=True)
    else:
        positions = min(WIDTH_STEP, model.cfg.seq_len) + MAX_ANSWER
        check_rows(model, params, ROWS * beams, positions, f"a search with {beams:,} beams", "lower --beams")
        write = partial(best_entries, child_XV=jnp.asarray(trie), beams=beams, max_new=MAX_ANSWER)
    answers = [""] * len(questions)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(by_length), ROWS):
        chosen = by_length[first : first + ROWS]
        prompt_BP, length_B = pad_prompts([prompts[i] for i in chosen], ROWS, model.cfg.seq_len)
        new_BN = write(model, params, prompt_BP, length_B)
        for i, new_N in zip(chosen, to_numpy(new_BN)):
            answer = vocab.decode(new_N)
            answers[i] = " ".join(answer.split(MASK)[0].rstrip(PAD).splitlines())
    return answers, notes


def write_predictions(path: Path, predictions: list[str]):
    """Writes one prediction a line, as the course does."""
    try:
        path.write_text("".join(p + "\n" for p in predictions), "utf-8", newline="\n")
    except OSError as error:
        raise cannot_write(path, error) from None


def score(predictions: list[str], answers: list[str]) -> Score:
    """Counts exact matches, predictions and answers one to one."""
    return Score(sum(p == a for p, a in zip(predictions, answers, strict=True)), len(answers))


def most_frequent(answers: list[str]) -> str:
    """Returns the commonest answer, the first in the alphabet among equals."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))

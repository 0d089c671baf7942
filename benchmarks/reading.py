"""Measures look-up and reader: python -m benchmarks.reading

The names are divided into five parts. The questions about each part are answered by a reader that was trained
on the other four. The command prints

- how many answers are right: of all questions, and of those whose lines hold the right answer;
- how many are wrong if the least probable answers are withheld;
- how many questions may be answered under a promise (`kgpt_jax/answer/guarantee.py`).

Then it misspells each name in four ways, and prints how often look-up still finds it. Without flags, the
corpus is the built-in people.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from benchmarks.report import guarded
from kgpt_jax.answer.confidence import calibration_error, perfect_error, risk_and_coverage
from kgpt_jax.answer.guarantee import grid, promise
from kgpt_jax.answer.open_book import lines_of
from kgpt_jax.answer.reader import Lesson, train
from kgpt_jax.answer.score import Score
from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.lookup import Lookup
from kgpt_jax.data.names import frame
from kgpt_jax.data.people import everyone

FLAGS = flags.FLAGS
SURELY = 0.9
FOLDS = 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPOS = {
    "a letter replaced": lambda name, i, letter: name[:i] + letter + name[i + 1 :],
    "a letter left out": lambda name, i, _: name[:i] + name[i + 1 :],
    "a letter doubled": lambda name, i, _: name[:i] + name[i] + name[i:],
    "two letters swapped": lambda name, i, _: name[:i] + name[i + 1 : i + 2] + name[i] + name[i + 2 :],
}


def with_typo(name: str, typo: Callable[[str, int, str], str], rng: np.random.Generator) -> str:
    """Returns a name with a typo that changes it; the name if none of 100 typos does."""
    tries = (typo(name, int(rng.integers(len(name))), str(rng.choice(list(LETTERS)))) for _ in range(100))
    return next((found for found in tries if found != name), name)


def out_of_fold(asked: Sequence[Lesson], rng: np.random.Generator) -> list[tuple[str, float]]:
    """Returns the answer and its probability for each question, by a reader that was not trained on its name.

    Args:
      asked: the questions.
      rng: divides the names into FOLDS parts; each part is read by a reader that was trained on the others.
    """
    names = sorted({name for _, name, _ in asked})
    fold_of = dict(zip(names, rng.permutation(len(names)) % FOLDS))
    answers = [("", 0.0)] * len(asked)
    for fold in range(FOLDS):
        trained = train([row for row in asked if fold_of[row[1]] != fold])
        for i, (lines, name, _) in enumerate(asked):
            if fold_of[name] == fold:
                for text, found in trained.read(lines, name).items():
                    answers[i] = (text, found.probability)
                    break
    return answers


def main(_):
    data = DataConfig(
        pretrain_corpus_path=FLAGS.pretrain_corpus_path, finetune_corpus_path=FLAGS.finetune_corpus_path
    )
    rng = np.random.default_rng(FLAGS.seed)
    pairs, documents = corpus.load_pairs(data).pairs, list(corpus.load_documents(data).documents)
    documents = [documents[i] for i in rng.permutation(len(documents))]  # no line is where its question is
    where = frame([question for question, _ in pairs])
    lookup = Lookup(documents, everyone(data, where))
    asked = lines_of(pairs, where, documents, lookup)
    if not asked:
        raise UserError("no document is about a name of the questions: give files that belong together")
    began = time.perf_counter()
    found = out_of_fold(asked, rng)
    seconds = time.perf_counter() - began
    right_N = np.array([answer == target for (answer, _), (*_, target) in zip(found, asked)])
    there_N = np.array([any(target in line for line in lines) for lines, _, target in asked])
    probability_N = np.array([probability for _, probability in found])
    print(f"{len(pairs):,} questions, of which {len(asked):,} have a line; five readers took {seconds:.0f} s")
    for title, of_N in (("all", np.ones_like(there_N)), ("answerable", there_N)):
        score = Score(int(right_N[of_N].sum()), int(of_N.sum()))
        print(f"{title}: {score.correct:,} of {score.total:,} right: {score}")
    risk_N = risk_and_coverage(probability_N, right_N)
    for share in (0.75, 0.9, 0.95):
        print(f"answers {share:.0%} of the questions: {risk_N[int(share * len(risk_N)) - 1]:.1%} wrong")
    half = rng.permutation(len(asked)) % 2 == 0  # one half decides which thresholds are tried
    for wrong_at_most in (0.05, 0.02):
        thresholds = grid(probability_N[half].tolist(), int((~half).sum()), wrong_at_most, SURELY)
        made = promise(
            probability_N[~half].tolist(), right_N[~half].tolist(), thresholds, wrong_at_most, SURELY
        )
        share = (
            "nothing" if made.threshold is None else f"{made.answered / (~half).sum():.0%} of the questions"
        )
        print(f"promise, wrong at most {wrong_at_most:.0%} with {SURELY:.0%} certainty: answers {share}")
    error, perfect = calibration_error(probability_N, right_N), perfect_error(probability_N, rng)
    print(f"calibration error, 10 bins: {error:.3f} (perfect: up to {perfect:.3f})")
    named = [name for question, _ in pairs if (name := where.name(question)) in lookup.rows_of]
    for title, typo in TYPOS.items():
        hits = sum(lookup.find(with_typo(name, typo, rng)).name == name for name in named)
        print(f"{title}: {hits:,} of {len(named):,} names found, {hits / len(named):.2%}")


if __name__ == "__main__":
    flags.DEFINE_string("pretrain_corpus_path", "", "Documents, one per line.")
    flags.DEFINE_string("finetune_corpus_path", "", "Lines of question, tab, answer.")
    flags.DEFINE_integer("seed", 0, "Decides the folds, the order of the documents, and the typos.")
    app.run(guarded(main))

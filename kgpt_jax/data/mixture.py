"""Combines objectives by their weights, as in "entity_span=0.6,whole_line=0.2,question_answer=0.2".

Axes: `N` examples, `T` positions.
"""

import numpy as np

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.batches import used_columns
from kgpt_jax.data.objectives import OBJECTIVES, Examples, Material, Objective, question_answer
from kgpt_jax.data.vocab import PAD_ID, Vocab


def weights(recipe: str) -> dict[str, float]:
    """Returns the objectives of a mixture with their weights, scaled to add up to 1.

    A name without a weight counts as weight 1 before scaling.

    >>> weights("entity_span=3,whole_line=1")
    {'entity_span': 0.75, 'whole_line': 0.25}

    Raises:
      UserError: a name is unknown or occurs twice, or a weight is not positive or is below 0.001 of the sum.
    """
    read = {}
    for term in recipe.split(","):
        name, _, weight = term.strip().partition("=")
        if name not in OBJECTIVES:
            raise UserError(f"unknown objective {name!r} in {recipe!r}; choose from {', '.join(OBJECTIVES)}")
        if name in read:
            raise UserError(f"objective {name!r} occurs twice in {recipe!r}: add its weights up")
        try:
            read[name] = float(weight or 1)
        except ValueError:
            raise UserError(f"objective {name!r} has weight {weight!r}: give a number") from None
        if not 0 < read[name] < float("inf"):
            raise UserError(f"objective {name!r} has weight {weight}: give more than 0")
    total = sum(read.values())
    scaled = {name: weight / total for name, weight in read.items()}
    least = min(scaled, key=scaled.get)
    if scaled[least] < 0.001:
        raise UserError(f"objective {least!r} has under 0.001 of the weight in {recipe!r}: leave it out")
    return scaled


def examples_of(recipe: str, n_documents: int, n_pairs: int) -> int:
    """Returns the number of examples in an epoch: every document once, and questions by their weight.

    A mixture of questions alone has each of the `n_pairs` once.

    >>> examples_of("whole_line=3,question_answer=1", n_documents=300, n_pairs=7)
    400
    """
    asked = weights(recipe).get("question_answer", 0.0)
    return n_documents + round(n_documents * asked / (1 - asked)) if asked < 1 else n_pairs


def mixture(recipe: str, material: Material, n_questions: int, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective of a mixture.

    An epoch shows every document once, by an objective that is drawn with the weights. After the documents
    come the questions, in shuffled rounds through all pairs.

    Args:
      recipe: objectives and weights, as `weights` reads them.
      material: the documents, the pairs that questions come from, and the answers that may be masked.
      n_questions: how many questions follow the documents.
      vocab: characters to ids.
      cfg: lengths of texts.

    Raises:
      UserError: `weights` refuses the recipe, the recipe has questions and there are no pairs, or a pair is
        too long.
    """
    weight_of = weights(recipe)
    asked = weight_of.pop("question_answer", 0.0)
    questions = question_answer(material, vocab, cfg) if asked else None
    if not weight_of:
        return questions
    n_documents, n_pairs = len(material.documents), len(material.pairs)
    if asked and not n_pairs:
        raise UserError("objective 'question_answer' needs training pairs: --finetune_corpus_path")
    objectives = [OBJECTIVES[name](material, vocab, cfg) for name in weight_of]
    if len(objectives) == 1 and not n_questions:
        return objectives[0]
    upper_bounds = np.cumsum(list(weight_of.values())) / sum(weight_of.values())

    def examples(rng: np.random.Generator) -> Examples:
        chosen_N = np.searchsorted(upper_bounds[:-1], rng.random(n_documents), side="right")
        drawn = zip(*[objective(rng) for objective in objectives])  # x, y, source: each by all objectives
        mixed = [np.stack(arrays)[chosen_N, np.arange(n_documents)] for arrays in drawn]
        if n_questions:
            rounds = [rng.permutation(n_pairs) for _ in range(-(-n_questions // n_pairs))]
            order_N = np.concatenate(rounds)[:n_questions]
            mixed = [np.concatenate([array, more[order_N]]) for array, more in zip(mixed, questions(rng))]
        return Examples(*mixed)

    return examples


def preceded(objective: Objective, fraction: float) -> Objective:
    """Returns the objective with a fraction of its texts placed after another text, if both fit.

    Names then occur anywhere in a text, as they do in questions. Otherwise a model with learned positions
    knows names only at the beginning of a text. Both texts keep their targets, except in a variant with
    `whole_source`, where the first text is part of the source. The first character of the second text is not
    a target.
    """

    def examples(rng: np.random.Generator) -> Examples:
        x_NT, y_NT, source_N = objective(rng)
        n, T = x_NT.shape
        length_N = used_columns(x_NT) * (x_NT[:, 0] != PAD_ID)
        length_N += y_NT[:, -1] != PAD_ID  # a text's last character may be a target only
        first_N = rng.integers(0, n, n)
        before_N = np.where(rng.random(n) < fraction, length_N[first_N], 0)
        before_N = np.where(before_N + length_N <= T + 1, before_N, 0).astype(np.int32)
        column_T, before_N1 = np.arange(T), before_N[:, None]
        is_first_NT = column_T < before_N1
        row_NT = np.where(is_first_NT, first_N[:, None], np.arange(n)[:, None])
        column_NT = np.where(is_first_NT, column_T, column_T - before_N1)
        return Examples(x_NT[row_NT, column_NT], y_NT[row_NT, column_NT], source_N + before_N)

    return examples

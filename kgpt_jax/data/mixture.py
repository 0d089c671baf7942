"""Several objectives in one, by weights.

    mixture("entity_span=0.6,whole_line=0.2,question_answer=0.2", material, vocab, cfg)

is an objective, and how many examples an epoch of it has.
"""

import numpy as np

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.batches import used_columns
from kgpt_jax.data.objectives import OBJECTIVES, Examples, Material, Objective, question_answer
from kgpt_jax.data.vocab import PAD_ID, Vocab


def weights(recipe: str) -> dict[str, float]:
    """Reads a mixture such as a recipe holds; a single name has weight 1, and weights add up to 1.

    >>> weights("entity_span=3,whole_line=1")
    {'entity_span': 0.75, 'whole_line': 0.25}
    """
    read = {}
    for part in recipe.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in OBJECTIVES:
            raise UserError(f"unknown objective {name!r} in {recipe!r}; choose from {', '.join(OBJECTIVES)}")
        if name in read:
            raise UserError(f"objective {name!r} stands twice in {recipe!r}: add its weights up")
        try:
            read[name] = float(weight or 1)
        except ValueError:
            raise UserError(f"objective {name!r} has weight {weight!r}: give a number") from None
        if not 0 < read[name] < float("inf"):
            raise UserError(f"objective {name!r} has weight {weight}: give more than 0")
    total = sum(read.values())
    shares = {name: weight / total for name, weight in read.items()}
    least = min(shares, key=shares.get)
    if shares[least] < 0.001:
        raise UserError(f"objective {least!r} has under 0.001 of the weight in {recipe!r}: leave it out")
    return shares


def preceded(objective: Objective, share: float) -> Objective:
    """Returns the objective with a share of its texts behind another of them, where both fit.

    So names stand anywhere and not only where a text begins, which learned positions don't forgive. Both
    texts keep their targets (but a variant that reads a source as a whole has those of the second only, the
    first being part of it); what the first ends with foretells nothing of the second.
    """

    def examples(rng: np.random.Generator) -> Examples:
        x_NT, y_NT, source_N = objective(rng)
        n, T = x_NT.shape
        length_N = used_columns(x_NT) * (x_NT[:, 0] != PAD_ID)
        length_N += y_NT[:, -1] != PAD_ID  # the last character may be a target only
        first_N = rng.integers(0, n, n)
        before_N = np.where(rng.random(n) < share, length_N[first_N], 0)
        before_N = np.where(before_N + length_N <= T + 1, before_N, 0).astype(np.int32)
        column_T, before_N1 = np.arange(T), before_N[:, None]
        is_first_NT = column_T < before_N1
        row_NT = np.where(is_first_NT, first_N[:, None], np.arange(n)[:, None])
        column_NT = np.where(is_first_NT, column_T, column_T - before_N1)
        return Examples(x_NT[row_NT, column_NT], y_NT[row_NT, column_NT], source_N + before_N)

    return examples


def examples_of(recipe: str, n_documents: int, n_pairs: int) -> int:
    """Returns how many examples an epoch of a mixture has."""
    asked = weights(recipe).get("question_answer", 0.0)
    return n_documents + round(n_documents * asked / (1 - asked)) if asked < 1 else n_pairs


def mixture(
    recipe: str,
    material: Material,
    vocab: Vocab,
    cfg: ModelConfig,
    pairs: list[tuple[str, str]] | None = None,
    n_questions: int | None = None,
) -> tuple[Objective, int]:
    """Returns the objective of a mixture, and how many examples an epoch of it has.

    An epoch shows every document once, by one of the objectives of documents, drawn by their weights; to
    these come as many questions, in shuffled rounds, as their weight asks for. A part of a corpus says
    itself which `pairs` it asks about and how many questions it has.
    """
    pairs = material.pairs if pairs is None else pairs
    share = weights(recipe)
    asked = share.pop("question_answer", 0.0)
    questions = question_answer(Material([], pairs), vocab, cfg) if asked else None
    if not share:
        return questions, len(pairs)
    if asked and not pairs:
        raise UserError("objective 'question_answer' needs training pairs: --finetune_corpus_path")
    parts = [OBJECTIVES[name](material, vocab, cfg) for name in share]
    n_documents = len(material.documents)
    if n_questions is None:
        n_questions = examples_of(recipe, n_documents, 0) - n_documents
    if len(parts) == 1 and not n_questions:
        return parts[0], n_documents
    bounds = np.cumsum(list(share.values())) / sum(share.values())

    def examples(rng: np.random.Generator) -> Examples:
        chosen_N = np.searchsorted(bounds[:-1], rng.random(n_documents), side="right")
        drawn = [part(rng) for part in parts]
        mixed = [
            np.select([chosen_N == i for i in range(len(parts))], [each[k].T for each in drawn]).T
            for k in range(3)
        ]
        if n_questions:
            rounds = -(-n_questions // len(pairs))
            order = np.concatenate([rng.permutation(len(pairs)) for _ in range(rounds)])
            first = order[:n_questions]
            mixed = [np.concatenate([part, each[first]]) for part, each in zip(mixed, questions(rng))]
        return Examples(*mixed)

    return examples, n_documents + n_questions

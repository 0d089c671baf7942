import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.mixture import mixture, weights
from kgpt_jax.data.objectives import OBJECTIVES, Material
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from tests.data.test_objectives import PAIRS, PEOPLE


def test_a_mixture_shows_each_document_once_and_questions_by_their_weight():
    documents = [f"{i:03d} Bell. Born in Rome in the year {i} ." for i in range(400)]
    material, cfg = Material(documents, PAIRS), ModelConfig()
    vocab = Vocab.of("".join(documents) + "".join(q + a for q, a in PAIRS))
    make, n = mixture("whole_line=2,entity_span=1,question_answer=1", material, vocab, cfg)
    x_NT, y_NT, source_N = make(np.random.default_rng(0))
    assert n == len(x_NT) == len(y_NT) == len(source_N) == 533
    texts = [vocab.decode(x_T).rstrip(PAD) for x_T in x_NT]
    assert [text[:3] for text in texts[:400]] == [document[:3] for document in documents]
    lines = sum(MASK not in text for text in texts[:400])
    assert 267 - 40 < lines < 267 + 40
    asked = [text.split(MASK)[0] for text in texts[400:]]
    assert [asked.count(question) for question, _ in PAIRS] in ([45, 44, 44], [44, 45, 44], [44, 44, 45])
    for x_T, y_T, source, text in zip(x_NT, y_NT, source_N, texts):
        targets = vocab.decode(y_T[y_T != 0])
        if text.startswith("Where"):
            assert targets == MASK + text.split(MASK)[1] + MASK and text[:source].endswith(MASK)
        else:
            assert vocab.decode(x_T[:1]) + targets == text


def test_a_single_objective_is_itself():
    vocab, cfg = Vocab.of("".join(PEOPLE)), ModelConfig()
    for name in ("span_corruption", "entity_span"):
        make, n = mixture(name, Material(PEOPLE, PAIRS), vocab, cfg)
        same = OBJECTIVES[name](Material(PEOPLE, PAIRS), vocab, cfg)
        drawn, expected = make(np.random.default_rng(0)), same(np.random.default_rng(0))
        assert n == len(PEOPLE) and all((a == b).all() for a, b in zip(drawn, expected))


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("spans", "unknown objective 'spans' in 'spans'; choose from span_corruption, whole_line, "),
        ("whole_line=many", "objective 'whole_line' has weight 'many': give a number"),
        ("whole_line=-1", "objective 'whole_line' has weight -1: give more than 0"),
    ],
)
def test_a_mixture_that_cannot_be_read_is_named(recipe, message):
    with pytest.raises(UserError, match=message):
        weights(recipe)

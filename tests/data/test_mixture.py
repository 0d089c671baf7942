import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.mixture import examples_of, mixture, preceded, weights
from kgpt_jax.data.objectives import OBJECTIVES, Material
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from tests.data.test_objectives import PAIRS, PEOPLE


def test_a_mixture_shows_each_document_once_and_questions_by_their_weight():
    documents = [f"{i:03d} Bell. Born in Rome in the year {i} ." for i in range(400)]
    material, cfg = Material(documents, PAIRS), ModelConfig()
    vocab = Vocab.of("".join(documents) + "".join(q + a for q, a in PAIRS))
    recipe = "whole_line=2,entity_span=1,question_answer=1"
    n = examples_of(recipe, 400, 0)
    x_NT, y_NT, source_N = mixture(recipe, material, n - 400, vocab, cfg)(np.random.default_rng(0))
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
        make = mixture(name, Material(PEOPLE, PAIRS), 0, vocab, cfg)
        same = OBJECTIVES[name](Material(PEOPLE, PAIRS), vocab, cfg)
        drawn, expected = make(np.random.default_rng(0)), same(np.random.default_rng(0))
        assert all((a == b).all() for a, b in zip(drawn, expected))


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("spans", "unknown objective 'spans' in 'spans'; choose from span_corruption, whole_line, "),
        ("whole_line=many", "objective 'whole_line' has weight 'many': give a number"),
        ("whole_line,whole_line=2", "objective 'whole_line' occurs twice in 'whole_line,whole_line=2'"),
        ("question_answer=1e20,whole_line", "objective 'whole_line' has under 0.001 of the weight in"),
        ("whole_line=-1", "objective 'whole_line' has weight -1: give more than 0"),
    ],
)
def test_wrong_mixtures_are_refused(recipe, message):
    with pytest.raises(UserError, match=message):
        weights(recipe)


def test_texts_behind_others_keep_their_targets():
    documents = [f"{name} Bell. Born in {place} ." for name in ("Ada", "Ed") for place in ("Rome", "Ulm")]
    vocab, cfg = Vocab.of("".join(documents) + "Where was ABC born?LebanonYork"), ModelConfig(seq_len=63)
    make = mixture("whole_line=1,question_answer=1", Material(documents, PAIRS), 4, vocab, cfg)
    single = {vocab.decode(x_T).rstrip(PAD) for x_T in make(np.random.default_rng(0)).x_NT}
    assert len(single) == 7
    behind = 0
    for seed in range(50):
        x_NT, y_NT, source_N = preceded(make, 0.5)(np.random.default_rng(seed))
        for x_T, y_T, source in zip(x_NT, y_NT, source_N):
            text = vocab.decode(x_T).rstrip(PAD)
            first = next((one for one in single if text.startswith(one) and text != one), "")
            second = text[len(first) :]
            assert second in single  # whole: both fit
            behind += bool(first)
            expected = (targets(first) if first else "") + targets(second)
            assert vocab.decode(y_T).rstrip(PAD) == expected.rstrip(PAD)
            assert source == len(first) + (second.index(MASK) + 1 if "Where" in second else 1)
    assert 0.4 < behind / (50 * 8) < 0.6


def targets(text):
    """Returns the next character at each position, or PAD where it is not predicted."""
    shown = text.index(MASK) if "Where" in text else 1
    return PAD * (shown - 1) + text[shown:] + PAD


def test_a_text_that_fills_the_row_stays_alone():
    vocab, cfg = Vocab.of("abcdefgh"), ModelConfig(seq_len=7)
    make = mixture("whole_line", Material(["abcdefgh", "abcdefg", "abcd", "efgh"], []), 0, vocab, cfg)
    seen = set()
    for seed in range(50):
        x_NT, y_NT, _ = preceded(make, 1.0)(np.random.default_rng(seed))
        seen |= {vocab.decode([x_T[0], *y_T]).rstrip(PAD) for x_T, y_T in zip(x_NT, y_NT)}
    # Nothing predicts the first character of the second text.
    assert seen == {"abcdefgh", "abcdefg", "abcd", "efgh", "abcd□bcd", "abcd□fgh", "efgh□bcd", "efgh□fgh"}

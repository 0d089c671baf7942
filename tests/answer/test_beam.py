from functools import partial

import jax
import numpy as np
import pytest

from kgpt_jax.answer import predict as answer_predict
from kgpt_jax.answer.beam import NOWHERE, best_entries, make_trie
from kgpt_jax.answer.decode import pad_prompts
from kgpt_jax.answer.predict import likeliest_answers, predict
from kgpt_jax.answer.predict import log_probabilities as log_probabilities_of
from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD_ID, Vocab
from tests import tiny

VOCAB = Vocab.of("abcdefghijk")  # 13 with PAD and MASK, as the tiny model has
ENTRIES = ["a", "ab", "abc", "bad", "cab", "dig", "kid", "big", "hid"]
PROMPTS = ["face", "b", "hedge", "feed"]


def test_a_trie_holds_its_entries_and_nothing_else():
    child_XV = make_trie([*ENTRIES, "abc", "xyz"], VOCAB)

    def walk(node, text):
        for i in np.flatnonzero(child_XV[node] != NOWHERE):
            if i == MASK_ID:
                yield text
            else:
                yield from walk(child_XV[node, i], text + VOCAB.decode([i]))

    assert sorted(walk(0, "")) == sorted(ENTRIES)


def scores(model, params, prompt):
    """The log probability of every entry with its MASK, all read as whole texts, side by side."""
    texts = [VOCAB.encode(prompt + entry + MASK) for entry in ENTRIES]
    x_BT = np.full((len(texts), 15), PAD_ID)
    for row, text in zip(x_BT, texts):
        row[: len(text)] = text
    source_B = np.full(len(texts), len(prompt))
    gains_BTV = np.asarray(jax.nn.log_softmax(tiny.logits(model, params, x_BT, source_B)))
    return {
        entry: sum(gains_TV[i - 1, text[i]] for i in range(len(prompt), len(text)))
        for entry, text, gains_TV in zip(ENTRIES, texts, gains_BTV)
    }


def test_the_answer_is_the_best_entry():
    model, params, _ = tiny.make("vanilla")
    answers, _ = predict(model, params, VOCAB, PROMPTS, make_trie(ENTRIES, VOCAB), beams=len(ENTRIES))
    for prompt, answer in zip(PROMPTS, answers):
        every = scores(model, params, prompt + MASK)
        assert answer == max(every, key=every.get)


# Variants with each kind of cache: keys and values, the inputs, or results that are computed once.
@pytest.mark.parametrize("variant", ["vanilla", "perceiver_ar", "encoder_decoder"])
def test_the_best_entry_is_found_where_the_beams_hold_all(variant):
    model, params, _ = tiny.make(variant)
    prompt_BP, length_B = pad_prompts([VOCAB.encode(prompt) for prompt in PROMPTS], 5, 15)
    child_XV = make_trie(ENTRIES, VOCAB)
    search = partial(best_entries, model, params, prompt_BP, length_B, child_XV, max_new=6)
    new_BEW, score_BE = map(np.asarray, search(beams=len(ENTRIES), complete=True))
    for prompt, new_EW, score_E in zip(PROMPTS, new_BEW, score_BE):
        every = scores(model, params, prompt)
        in_order = sorted(every, key=every.get, reverse=True)
        assert [VOCAB.decode(new_W).rstrip("□") for new_W in new_EW] == [entry + MASK for entry in in_order]
        np.testing.assert_allclose(score_E, [every[entry] for entry in in_order], rtol=1e-4)
    assert (new_BEW[4, 0] == PAD_ID).all()  # the row of length 0


def test_candidates_are_the_likeliest_texts_of_all():
    model, params, _ = tiny.make("vanilla")
    (found,) = likeliest_answers(model, params, VOCAB, ["face"], beams=8)
    scores = list(found.values())
    assert len(found) == 8 and scores == sorted(scores, reverse=True)
    read = log_probabilities_of(model, params, VOCAB, ["face"] * 8, list(found))
    # A text that fills the window has no MASK in it, so it reads the same with or without.
    np.testing.assert_allclose(scores, read, rtol=1e-4)
    greedy = predict(model, params, VOCAB, ["face"])[0][0]
    assert scores[0] >= log_probabilities_of(model, params, VOCAB, ["face"], [greedy])[0] - 1e-4
    assert likeliest_answers(model, params, VOCAB, ["a" * 15]) == [{}]


def test_one_beam_takes_the_likeliest_character_that_an_entry_has():
    model, params, _ = tiny.make("vanilla")
    prompt_BP, length_B = pad_prompts([VOCAB.encode("face")], 1, 15)
    child_XV = make_trie(["kid", "a"], VOCAB)
    new_BEW, _ = best_entries(model, params, prompt_BP, length_B, child_XV, beams=1, max_new=6)
    new_W = np.asarray(new_BEW)[0, 0]
    logits_TV = tiny.logits(model, params, prompt_BP[:, :4])[0]
    k, a = (logits_TV[3, VOCAB.id_of[c]] for c in "ka")
    assert VOCAB.decode(new_W).rstrip("□") == ("kid⁇" if k > a else "a⁇")


def test_more_beams_than_memory_holds_are_refused():
    model, params, _ = tiny.make("rope")
    with pytest.raises(UserError, match="a search with 100,000,000 beams needs .* lower --beams"):
        predict(model, params, VOCAB, PROMPTS, make_trie(ENTRIES, VOCAB), beams=10**8)


def test_a_single_question_needs_memory_for_its_own_beams_only(monkeypatch):
    def refuse(model, params, rows, *_):
        raise UserError(f"{rows} rows")

    monkeypatch.setattr(answer_predict, "check_rows", refuse)
    model, params, _ = tiny.make("rope")
    for questions, rows in ((PROMPTS[:1], 5), (PROMPTS[:2], 320)):
        with pytest.raises(UserError, match=f"^{rows} rows$"):
            predict(model, params, VOCAB, questions, make_trie(ENTRIES, VOCAB), beams=5)

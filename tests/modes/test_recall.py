import numpy as np
import pytest

from kgpt_jax.config import ModelConfig
from kgpt_jax.train import recall as task
from kgpt_jax.train.recall import FIRST_KEY, FIRST_PAIR, FIRST_VALUE, KEYS, recall, recall_texts


def test_a_question_is_answered_by_its_own_text():
    x_BT, y_BT, source_B = recall_texts(np.random.default_rng(0), 50)
    assert x_BT.shape == y_BT.shape == (50, 2 * KEYS) and (source_B == KEYS).all()
    for x_T, y_T in zip(x_BT, y_BT):
        pairs = dict(divmod(int(pair) - FIRST_PAIR, KEYS) for pair in x_T[:KEYS])
        assert len(pairs) == KEYS and not y_T[:KEYS].any()
        asked = [int(key) - FIRST_KEY for key in x_T[KEYS:]]
        assert sorted(asked) == list(range(KEYS))
        assert [pairs[key] for key in asked] == [int(value) - FIRST_VALUE for value in y_T[KEYS:]]
    assert len({tuple(x_T) for x_T in x_BT}) == 50


@pytest.mark.long
def test_one_layer_that_compares_recalls_and_one_that_does_not_cannot(monkeypatch):
    """With 8 keys and values: guessing is right once in 8."""
    for name, value in (("KEYS", 8), ("FIRST_KEY", 2 + 64), ("FIRST_VALUE", 2 + 64 + 8), ("TEXTS", 256)):
        monkeypatch.setattr(task, name, value)
    assert recall(ModelConfig(variant="vanilla"), updates=200) > 0.95
    assert recall(ModelConfig(variant="synthesizer"), updates=200) < 0.5

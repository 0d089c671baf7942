import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import MASK, PAD, Vocab


def test_pad_and_mask_come_first_then_the_sorted_characters():
    assert (PAD, MASK) == ("□", "⁇")
    vocab = Vocab.of("böba\n")
    assert vocab.characters == "□⁇\nabö"
    assert vocab.encode("□⁇ab").tolist() == [0, 1, 3, 4]
    assert vocab.decode([5, 2]) == "ö\n"
    assert len(vocab) == 6


def test_an_unknown_character_is_named():
    with pytest.raises(UserError, match="no 'z', in 'abz'"):
        Vocab.of("ab").encode("abz")
    assert Vocab.of("ab").unknown("zaby!") == "!yz"


def test_a_damaged_vocabulary_is_refused():
    for characters in ("ab", "□⁇aa", "⁇□ab"):
        with pytest.raises(UserError, match="a vocabulary is"):
            Vocab(characters)

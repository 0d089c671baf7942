"""Converts characters to ids and back. PAD has id 0, MASK has id 1, and sorted characters follow."""

import numpy as np

from kgpt_jax.config import UserError

PAD, MASK = "\u25a1", "\u2047"  # □ and ⁇
PAD_ID, MASK_ID = 0, 1


class Vocab:
    """An ordered set of characters. A character's id is its index.

    Args:
      characters: PAD, MASK and further characters, each once.

    Raises:
      UserError: `characters` does not begin with PAD and MASK, or repeats a character.

    >>> Vocab.of("abba").characters
    '□⁇ab'
    """

    def __init__(self, characters: str):
        if characters[:2] != PAD + MASK or len(set(characters)) != len(characters):
            raise UserError(f"a vocabulary is {PAD}{MASK} and distinct characters: {characters!r}")
        self.characters = characters
        self.id_of = {character: i for i, character in enumerate(characters)}

    @classmethod
    def of(cls, text: str) -> "Vocab":
        """Returns the vocabulary of a text's characters."""
        return cls(PAD + MASK + "".join(sorted(set(text) - {PAD, MASK})))

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other) -> bool:
        return isinstance(other, Vocab) and self.characters == other.characters

    def unknown(self, text: str) -> str:
        """Returns the characters of `text` that are not in the vocabulary, each once, sorted."""
        return "".join(sorted(set(text) - self.id_of.keys()))

    def encode(self, text: str) -> np.ndarray:
        """Returns the int32 ids of a text, (len(text),).

        Raises:
          UserError: a character is not in the vocabulary. The message names the first one.
        """
        try:
            return np.fromiter((self.id_of[c] for c in text), np.int32, len(text))
        except KeyError as error:
            raise UserError(f"the vocabulary has no {error.args[0]!r}, in {text!r}") from None

    def decode(self, ids) -> str:
        """Returns the text of an iterable of ids."""
        return "".join(self.characters[i] for i in ids)

"""Lets models recite what they have read about a name, and reads the answer in their own words.

    lines = recite(model, params, vocab, ["Ada Bell"], titled=True)
    read_in(book.reader, "Ada Bell", lines[0]).answer

A model that has read a document many times can often recite it, and the question about it is sometimes
misread although the document is known. So the model writes the document first (recitation: Sun et al., arXiv
2210.01296), and the reader (`answer/reader.py`) finds the answer in it. The documents themselves are not
opened: if the model does not remember, what it writes is wrong.

Finetuning on questions alone makes a model forget how to recite. Mix in `whole_line`:
`--config.finetune.objective=question_answer=0.5,whole_line=0.5`.
"""

from collections.abc import Sequence

import jax
import numpy as np

from kgpt_jax.answer.decode import SENTENCE_ENDS, continue_texts, pad_prompts
from kgpt_jax.answer.predict import ROWS, in_batches
from kgpt_jax.answer.reader import Reader
from kgpt_jax.answer.record import Recited
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from kgpt_jax.devices import to_numpy

SURE_ENOUGH = 0.5  # the reader's probability above which its answer counts


def recite(model, params, vocab: Vocab, names: Sequence[str], titled: bool) -> list[str]:
    """Returns the document that a model writes about each name.

    The likeliest character is written at each step. A MASK ends the text after the end of a sentence, and is
    not written elsewhere, where it would mark a gap.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      vocab: its vocabulary.
      names: the names. For "", or a name with a letter that the vocabulary lacks, nothing is written.
      titled: whether documents begin with `Name. `; otherwise they are taken to begin with the name.
    """
    begins = [f"{name}. " if titled and name else name for name in names]
    room = model.cfg.seq_len
    prompts = [vocab.encode("" if vocab.unknown(begin) else begin)[:room] for begin in begins]
    ends_V = np.array([character in SENTENCE_ENDS for character in vocab.characters])
    lines, rows = [""] * len(names), 1 if len(names) == 1 else ROWS
    for chosen in in_batches(prompts, rows):
        prompt_BP, length_B = pad_prompts([prompts[i] for i in chosen], rows, room)
        new_BW = continue_texts(
            model,
            params,
            prompt_BP,
            length_B,
            jax.random.key(0),  # the likeliest character needs no random key
            max_new=room,
            stop_at_mask=True,
            ends_V=ends_V,
        )
        for i, new_W in zip(chosen, to_numpy(new_BW)):
            if len(prompts[i]):
                written = begins[i] + vocab.decode(new_W).split(MASK)[0].rstrip(PAD)
                lines[i] = " ".join(written.splitlines())
    return lines


def read_in(reader: Reader, name: str, line: str) -> Recited | None:
    """Returns the likeliest answer in a recited document; None if there is no candidate."""
    for answer, (probability, (_, start, end)) in reader.read([line], name).items():
        return Recited(answer, probability, line, start, end)
    return None

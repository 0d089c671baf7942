"""Lets models recite what they have read about a name, and reads the answer in their own words.

    recited = recite(model, params, vocab, book, ["Where was Ada Bell born?"])
    recited[0].answer, recited[0].text

A model that has read a document many times can often recite it, even if it misreads the question about it.
So the model writes the document first, and the reader (`answer/reader.py`) finds the answer in it. The reader
sees only what the model writes: if the model does not remember, the answer is wrong. Writing first is known
as recitation (Sun et al., arXiv 2210.01296).

Finetuning on questions alone makes a model forget how to recite. Mix in `whole_line`:
`--config.finetune.objective=question_answer=0.5,whole_line=0.5`.
"""

from collections.abc import Sequence

from kgpt_jax.answer.decode import SENTENCE_ENDS, continue_texts, sentence_ends
from kgpt_jax.answer.open_book import OpenBook
from kgpt_jax.answer.predict import batch_by_batch
from kgpt_jax.answer.reader import Reader
from kgpt_jax.answer.record import Recited
from kgpt_jax.data.vocab import MASK, PAD, Vocab


def recite(model, params, vocab: Vocab, book: OpenBook, questions: Sequence[str]) -> list[Recited | None]:
    """Returns what a model recites about the name in each question, and the likeliest answer in it.

    It is None for a question of another form, or if the model writes nothing in which an answer may be.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      vocab: its vocabulary.
      book: knows the form of the questions, and has the reader.
      questions: the questions.
    """
    names = [book.where.name(question) or "" for question in questions]
    lines = documents(model, params, vocab, names, book.lookup.titled)
    return [_read(book.reader, name, line) for name, line in zip(names, lines)]


def _read(reader: Reader, name: str, line: str) -> Recited | None:
    for answer, (probability, (_, start, end)) in reader.read([line], name).items():
        return Recited(answer, probability, line, start, end)
    return None


def documents(model, params, vocab: Vocab, names: Sequence[str], titled: bool) -> list[str]:
    """Returns the document that a model writes about each name.

    The likeliest character is written at each step. A MASK ends the text after the end of a sentence, and is
    not written elsewhere, where it would mark a gap. If the model can write no more, the last word is left
    out, which may be unfinished.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      vocab: its vocabulary.
      names: the names. For "", a name with a letter that the vocabulary lacks, or one that is too long,
        nothing is written.
      titled: whether documents begin with `Name. `; otherwise they are taken to begin with the name.
    """
    room = model.cfg.seq_len
    begins = [f"{name}. " if titled and name else name for name in names]
    begins = ["" if vocab.unknown(begin) or len(begin) > room else begin for begin in begins]
    prompts = [vocab.encode(begin) for begin in begins]
    lines, ends_V = [""] * len(names), sentence_ends(vocab)

    def write(chosen, *batch):
        return continue_texts(model, params, *batch, max_new=room, stop_at_mask=True, ends_V=ends_V)

    for chosen, _, new_BW in batch_by_batch(write, prompts, room):
        for i, new_W in zip(chosen, new_BW):
            written, ended, _ = vocab.decode(new_W).partition(MASK)
            if begins[i]:
                line = " ".join((begins[i] + written.rstrip(PAD)).splitlines())
                lines[i] = line if ended or line[-1] in SENTENCE_ENDS else line.rpartition(" ")[0]
    return lines

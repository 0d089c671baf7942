"""--mode=ask: answers your own questions.

    python -m kgpt_jax.main --mode=ask --question="Where was Ruth Kaplan born?"

--question may be repeated. Without it, the command reads one question per line from standard input; at a
terminal it prompts for each. Answers go to standard output and everything else to standard error, so that a
pipe receives answers only.

If the run is calibrated (--mode=calibrate), each answer says where it comes from and how sure it is. With
--wrong_at_most=0.1 the command withholds answers, so that at most this share of the answers that it gives is
wrong. With --one_of=0.9 it names as many answers as it takes for the right one to be among them.

With --recite the model first recites what it has read about the name, and the answer is read in that.

With --look_up=always answers are also looked up in the documents, and the line that states them is shown.
With --look_up=unsure a calibrated run looks up only what it is not sure of.

Answers of --mode=teach come first.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kgpt_jax.answer.record import NEVER, of_100
from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = (
    "reading_params_path",
    "checkpoint",
    "voters",
    "question",
    "wrong_at_most",
    "surely",
    "one_of",
    "look_up",
    "recite",
)
PROMPT = "question: "
OTHER_FORM = "(I do not know: this question does not have the form of the training questions)"
SHOWN = 30  # characters of a line that are shown on each side of an answer


def run(command: Command):
    from kgpt_jax.answer.hybrid import look_up
    from kgpt_jax.answer.open_book import open_book
    from kgpt_jax.answer.sure import Judge
    from kgpt_jax.answer.taught import TOLD, taught
    from kgpt_jax.answer.voters import ask, load_voters, with_voters
    from kgpt_jax.data.corpus import log_notes
    from kgpt_jax.modes.evaluate import check_promises

    flags = command.flags
    questions = flags.question
    interactive = questions is None and sys.stdin is not None and sys.stdin.isatty()
    if questions is None:
        questions = [] if interactive else questions_in(sys.stdin)
    with notes_on_stderr():
        start = command.start("finetune")
        config = command.config(start)
        promised = check_promises(start.folder, flags)
        told_before = taught(start.folder)
        asked = with_voters(start, flags.voters, config)
        questions = tidied(questions, config)
        voters = load_voters(asked, "asking", flags.recite)
        judge = Judge(voters)
        if promised:
            judge.check(flags.recite, flags.wrong_at_most, flags.surely, flags.look_up, flags.one_of)
        book = open_book(config.data) if flags.recite or flags.look_up != NEVER else None

        def answers(questions: list[str]) -> list[str]:
            given = ask(voters, questions, book=book if flags.recite else None)
            log_notes(given.notes)
            sure = judge.sure(questions, given, flags.one_of)
            voted, least = given.vote, 0.0
            said = voted
            if judge.made:
                least = judge.made.threshold(flags.wrong_at_most, flags.surely, flags.look_up)
                in_form = [judge.made.asks.where.name(question) is not None for question in questions]
                said = [
                    own if one is None else in_words(one, least, flags.one_of) if fits else OTHER_FORM
                    for own, one, fits in zip(said, sure, in_form)
                ]
            unsure = {question for question, one in zip(questions, sure) if one is None} - told_before.keys()
            if unsure and (flags.wrong_at_most, flags.one_of) != (None, None):
                raise UserError("some answers have no confidence, so nothing can be promised about them")
            recited = zip(*given.recited) if given.recited else []
            said = [with_recital(*one) for one in zip(said, voted, recited)] or said
            if flags.look_up != NEVER:
                told = look_up(book, flags.look_up, questions, voted, sure)
                said = [with_document(one, words, least) for one, words in zip(told, said)]
            return [
                f"{told_before[question]} ({TOLD})" if question in told_before else words
                for question, words in zip(questions, said)
            ]

        if interactive:
            converse(answers, config)
        else:
            for question, answer in zip(questions, answers(questions)):
                print(f"{question} {answer}")


def in_words(sure, least: float, one_of: float | None = None) -> str:
    """Returns an answer with its label and its probability, or why there is none.

    Args:
      sure: a `Sure`.
      least: the least confidence of an answer that is given.
      one_of: the level of the set of answers, if there is one.
    """
    if not sure.known:
        hint = f"; did you mean {sure.did_you_mean}?" if sure.did_you_mean else ""
        return f"(I do not know this name: an answer would be {sure.label}{hint})"
    among = ""
    if one_of is not None:
        among = f"; in {100 * one_of:g} of 100 cases the right one is among: {', '.join(sure.one_of)}"
    if sure.confidence < least:
        return f"(I do not know: {sure.of_100}{among})"
    return f"{sure.answer} ({sure.label}; {sure.of_100}{among})"


def with_document(told, words: str, least: float = 0.0) -> str:
    """Returns an answer that was looked up, with the line that states it, or what else is to be said.

    Args:
      told: a `Told`.
      words: what is said without a look-up.
      least: the least confidence of an answer that is given.
    """
    from kgpt_jax.answer.hybrid import LOOKED_UP

    if told.label != LOOKED_UP:
        found = told.looked_up
        if told.label or found and found.how == "name":
            return words
        hint = f": did you mean {found.name}?" if found and found.how == "similar name" else ""
        return f"{words} (no document is about this name{hint})"
    if told.confidence < least:
        return f"(I do not know: {of_100(told.probability)})"
    line, *marked = told.looked_up.source
    differs = f"; the model says {told.model_answer or 'nothing'}" if told.differ else ""
    return (
        f"{told.answer} (looked up in line {line}: {excerpt(*marked)}; {of_100(told.probability)}{differs})"
    )


def with_recital(words: str, answer: str, recited) -> str:
    """Returns an answer with the words in which a model recites it, if one does.

    Args:
      words: what is said about the answer.
      answer: the answer.
      recited: what each model recites, a `Recited` or None.
    """
    there = next((each for each in recited if each and each.answer == answer), None)
    if there is None or not words.startswith(answer):
        return words
    before = words[:-1] + "; " if words.endswith(")") else f"{words} ("
    return f"{before}recites: {excerpt(there.text, there.start, there.end)})"


def excerpt(text: str, start: int, end: int) -> str:
    """Returns the characters around an answer, which stands in brackets.

    >>> excerpt("Ada Bell. Ada Bell was born in Rome .", 31, 35)
    '...da Bell. Ada Bell was born in [Rome] ....'
    """
    return f"...{text[max(start - SHOWN, 0) : start]}[{text[start:end]}]{text[end : end + SHOWN]}..."


def converse(answers, config):
    """Reads questions from a terminal and prints their answers, until an empty line or Ctrl-D."""
    print("Ask your questions. An empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            print(PROMPT, end="", file=sys.stderr, flush=True)  # `input` may print it among the answers
            question = input().strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except UnicodeDecodeError as error:
            print(f"error: this is not text in {error.encoding} ({error.reason})", file=sys.stderr)
            continue
        if not question:
            return
        try:
            print(*answers(tidied([question], config)), flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def tidied(questions: list[str], config) -> list[str]:
    """Returns the questions without the spaces around them. Raises a UserError if one cannot be asked."""
    from kgpt_jax.answer.predict import tidy

    room = config.model.seq_len - 1
    questions = list(map(tidy, questions))
    for question in questions:
        if len(question) > room:
            raise UserError(
                f"the question {question[:40]!r}... has {len(question)} characters: at most {room} fit"
            )
    return questions


def questions_in(file) -> list[str]:
    """Returns the lines of standard input that are not blank. Raises a UserError if there are none."""
    try:
        lines = [line.removeprefix("\ufeff").strip() for line in file or []]  # a byte-order mark
        questions = [line for line in lines if line]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not text in UTF-8 ({error.reason})") from None
    if not questions:
        raise UserError("standard input has no question: write one on each line, or give --question")
    return questions


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Sends the package's log to standard error while the context is open."""
    log, handler = logging.getLogger("kgpt_jax"), logging.StreamHandler(sys.stderr)
    before, log.handlers = log.handlers, [handler]
    try:
        yield
    finally:
        log.handlers = before

"""Collects answers to train one model on (distillation): those of runs, or of the open-book reader.

The teachers are asked once. Their answers are stored in the new run's folder: a vote as `vote.json`, answers
that runs recite as `recited.json`, the reader's answers as `reader.json`. The file also holds digests of the
teachers' parameters and of the texts that the answers come from, so that folders and files may be moved.
"""

import json
import logging
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from kgpt_jax.answer.open_book import OpenBook, open_book
from kgpt_jax.answer.predict import MAX_ANSWER
from kgpt_jax.answer.reader import LEAST_PROBABILITY
from kgpt_jax.answer.recite import recite
from kgpt_jax.answer.score import vote
from kgpt_jax.answer.voters import Voter, ask, load_voters, voting
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.objectives import question_room
from kgpt_jax.data.people import unpaired_questions
from kgpt_jax.data.stage_data import Taught
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import learned_by, refuse_held_out, teachers_of
from kgpt_jax.store.folder import READER, RECITED, VOTE, Run, locked, set_aside, write_json
from kgpt_jax.store.params import load_params, params_digest

log = logging.getLogger(__name__)

BY_READER = "the open-book reader"  # among `taught_by` in `run.json`


def taught_by_vote(
    config: Config,
    folder: Path,
    teachers: Sequence[Run],
    vocab: Vocab,
    start_anew: bool = False,
    recites: bool = False,
) -> Taught:
    """Returns the questions and answers on which the teachers agree.

    The first call asks the teachers and stores the vote in the folder; later calls read it. So a resumed
    training has the same answers on any machine.

    If the teachers recite, a reader finds the answers in what they write about each name, without seeing the
    documents. One teacher is then enough: the student learns to give at once what it had to recite.

    Args:
      config: the new run's config; `config.data` names the training pairs and the corpus.
      folder: the new run's folder.
      teachers: the runs that vote.
      vocab: the vocabulary of the new model.
      start_anew: whether to move a run in the folder, and these answers, aside first.
      recites: whether the teachers recite. An answer counts if the reader's probability is above
        LEAST_PROBABILITY.

    Raises:
      UserError: the folder holds a vote of other teachers or on other questions, a teacher has learned a
        held-out question, or there is only one model to vote and it does not recite.
    """
    asked = voting(teachers, config)
    refuse_held_out(teachers, config.data)
    models = sum(run.config.n_seeds for run in teachers)
    if models < 2 and not recites:
        raise UserError(
            f"{teachers[0].folder} holds one model, which is no vote: add runs by --voters, train by "
            "--num_seeds, or let it --recite"
        )
    pairs = corpus.load_pairs(config.data).pairs
    questions = unpaired_questions(config.data, pairs)
    digests = sorted(params_digest(load_params(run, model_devices=config.model_devices)) for run in teachers)

    def take() -> dict:
        given = []
        book = open_book(config.data) if recites else None
        for each in asked:  # one after the other, since all together may not fit into memory
            voters = load_voters([each], "asking", recites)
            given += recited(voters, questions, book) if book else ask(voters, questions).answers
        return {"models": models, "pairs": agreed(questions, given, question_room(config.model), vocab)}

    made_from: dict = {"teachers_digests": digests, "questions_digest": corpus.digest(questions)}
    if recites:  # the reader learns from the training pairs
        made_from["pairs_digest"] = corpus.digest(chain(*pairs))
    found = _once(folder / (RECITED if recites else VOTE), made_from, take, start_anew)
    how = "one model recites" if models == 1 else f"more than half of {models} models agree on"
    log.info(f"{how} the answers to {len(found):,} of {len(questions):,} new questions")
    return Taught(
        found, [*(str(run.folder) for run in teachers), *teachers_of(teachers)], learned_by(teachers)
    )


def recited(voters: Sequence[Voter], questions: Sequence[str], book: OpenBook) -> list[list[str]]:
    """Returns the answers that each model of runs recites, "" where the reader doubts them.

    Args:
      voters: the runs.
      questions: the questions.
      book: has the reader and knows the form of the questions. Its documents are not read.
    """
    answers = []
    for voter in voters:
        for params in voter.models:
            said = recite(GPT(voter.config.model), params, voter.run.vocab, book, questions)
            answers.append(
                [there.answer if there and there.probability > LEAST_PROBABILITY else "" for there in said]
            )
    return answers


def taught_by_reader(config: Config, folder: Path, vocab: Vocab, start_anew: bool = False) -> Taught:
    """Returns the questions that the open-book reader can answer, with its answers.

    The reader learns from the training pairs. It then reads the documents about everybody else, including the
    people of held-out questions, whose true answers it never sees. The first call stores its answers in the
    folder; later calls read them.

    Args:
      config: the new run's config; `config.data` names the training pairs and the corpus.
      folder: the new run's folder.
      vocab: the vocabulary of the new model.
      start_anew: whether to move a run in the folder, and these answers, aside first.

    Raises:
      UserError: the folder holds answers from other documents or training pairs, or the training questions
        do not have one form.
    """
    pairs, documents = corpus.load_pairs(config.data).pairs, corpus.load_documents(config.data).documents
    questions = unpaired_questions(config.data, pairs)

    def take() -> dict:
        return {"pairs": likely(open_book(config.data), questions, question_room(config.model), vocab)}

    made_from = {"documents_digest": corpus.digest(documents), "pairs_digest": corpus.digest(chain(*pairs))}
    found = _once(folder / READER, made_from, take, start_anew)
    log.info(
        f"{BY_READER} answers {len(found):,} of {len(questions):,} new questions "
        f"with a probability above {LEAST_PROBABILITY:.0%}"
    )
    return Taught(found, [BY_READER], frozenset(corpus.learned_from(config.data)))


def likely(book: OpenBook, questions: list[str], room: int, vocab: Vocab) -> list[tuple[str, str]]:
    """Returns (question, answer) wherever the reader's answer has a probability above LEAST_PROBABILITY.

    Args:
      book: the documents and their reader.
      questions: the questions. If no document is about exactly the name in a question, it gets no answer.
      room: the characters that a question and its answer may have together.
      vocab: the vocabulary of the model that is to learn the answers.
    """
    named = [question for question in questions if book.where.name(question) in book.lookup.rows_of]
    return [
        (question, found.answer)
        for question in named
        if (found := book.answer(question)) and found.probability > LEAST_PROBABILITY
        if _fits(question, found.answer, room, vocab)
    ]


def agreed(questions: list[str], answers: list[list[str]], room: int, vocab: Vocab) -> list[tuple[str, str]]:
    """Returns (question, answer) wherever more than half of the models give the same answer.

    Args:
      questions: the questions.
      answers: a list of answers for each model, in the order of the questions.
      room: the characters that a question and its answer may have together.
      vocab: the vocabulary of the model that is to learn the answers.

    >>> agreed(["A?", "B?"], [["Rome", "Oslo"], ["Bonn", ""], ["Rome", "Cork"]], 20, Vocab.of("ABORenom?"))
    [('A?', 'Rome')]
    """
    return [
        (question, answer)
        for question, answer, each in zip(questions, vote(answers), zip(*answers))
        if 2 * each.count(answer) > len(answers) and _fits(question, answer, room, vocab)
    ]


def _fits(question: str, answer: str, room: int, vocab: Vocab) -> bool:
    """Returns whether a model can learn an answer.

    It cannot if the answer is empty, fills all characters that a model may write (so that it may be cut off),
    needs more than `room` characters together with its question, or has a character that the vocabulary
    lacks.
    """
    short = 0 < len(answer) < MAX_ANSWER and len(question) + len(answer) <= room
    return short and not vocab.unknown(question + answer)


def _once(path: Path, made_from: dict, take: Callable[[], dict], start_anew: bool) -> list[tuple[str, str]]:
    """Returns the (question, answer) pairs in a file. The first call makes the file, as does starting anew.

    Args:
      path: the file.
      made_from: digests of all that the answers depend on, by name.
      take: asks the teachers, and returns the content of the file, with `pairs`, but without the digests.

    Raises:
      UserError: the file has other digests, or is damaged.
    """
    if start_anew or not path.exists():
        with locked(path.parent):
            content = made_from | take()
            if start_anew:  # only now: the teachers have answered
                set_aside(path.parent)
            write_json(path, content)
    try:
        there = json.loads(path.read_text("utf-8"))
        pairs = [(str(question), str(answer)) for question, answer in there["pairs"]]
        changed = [name for name in made_from if there[name] != made_from[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): move it away, and all are asked again") from None
    if changed:
        raise UserError(
            f"{path} comes from other {changed[0].split('_')[0]}, as their digest says: "
            "give another --workdir, or --start_anew"
        )
    return pairs

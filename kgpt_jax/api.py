"""The Python API: trained runs and the stages of training. `kgpt_jax` exports these names.

Functions import JAX and the other subpackages when they are called, so that importing and `load` are quick.

Axes: `T` positions of a text, `V` vocabulary.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kgpt_jax.answer.record import NEVER, UNSURE, Answer
from kgpt_jax.config import Config, UserError, check_local, load_recipe

if TYPE_CHECKING:
    import numpy as np

    from kgpt_jax.answer.attention import Map
    from kgpt_jax.answer.open_book import OpenBook
    from kgpt_jax.answer.score import Score
    from kgpt_jax.answer.sure import Judge
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.folder import Run as StoredRun


class Run:
    """A trained run: it answers questions, continues texts, and shows its logits and attention.

    `load`, `pretrain` and `finetune` return runs. Parameters are read from the run's folder when they are
    first needed, and are kept. If a run has several models (`config.n_seeds`), they answer by vote; `logits`,
    `attention` and `sample` use the first model.

    Example::

        run = kgpt_jax.load("runs/vanilla/finetune")
        run.answer("Where was Ruth Kaplan born?").answer
    """

    def __init__(self, stored: "StoredRun"):
        self._stored = stored

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, stage={self.stage!r}, variant={self.config.model.variant!r})"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._stored.folder

    @property
    def stage(self) -> str:
        """How the run was made: pretrain, finetune, scratch or import."""
        return str(self._stored.facts["stage"])

    @property
    def config(self) -> Config:
        """The config that the run was trained with."""
        return self._stored.config

    @property
    def vocab(self) -> "Vocab":
        """The characters that the run knows, with their ids."""
        return self._stored.vocab

    @cached_property
    def params(self) -> Any:
        """The parameters: a nested dict of float32 arrays.

        If the run has several models, each array has a leading axis with one entry per model.

        Raises:
          UserError: the run has no valid checkpoint, or needs more memory than there is.
        """
        _start_jax()
        import jax

        from kgpt_jax.store.params import load_params

        n = self.config.model_devices  # of the training; here there may be fewer
        return load_params(self._stored, model_devices=1 if jax.device_count() % n else n)

    @overload
    def answer(self, questions: str, look_up: str = "never", recite: bool = False) -> Answer: ...

    @overload
    def answer(
        self, questions: list[str] | tuple[str, ...], look_up: str = "never", recite: bool = False
    ) -> list[Answer]: ...

    def answer(
        self, questions: str | list[str] | tuple[str, ...], look_up: str = "never", recite: bool = False
    ) -> Answer | list[Answer]:
        """Answers one question, or a list of questions in batches.

        The answers are the same as in `--mode=evaluate`. If the run is calibrated (--mode=calibrate), they
        say how sure they are and where they come from. Spaces around a question are dropped. Characters that
        the vocabulary lacks are dropped, too, with a note to the logger "kgpt_jax".

        Args:
          questions: a question, or a list of them.
          look_up: "always" looks every question up in the run's documents, and "unsure" those of which a
            calibrated run is not sure (`kgpt_jax.answer.hybrid`).
          recite: whether the models recite before they answer (`kgpt_jax.answer.recite`).

        Returns:
          An `Answer` for one question, or a list of answers in the order of the questions.

        Raises:
          UserError: a question is not one line of text, the run has no valid checkpoint, `look_up` is
            unknown, it is "unsure" and the run has no fitting calibration, or the documents cannot be read.

        Example::

            for answer in run.answer(["Where was Ruth Kaplan born?", "Where was Ada Bell born?"]):
                print(answer.question, answer.answer, answer.log_probability)
                if answer.sure:
                    print(answer.sure.label, answer.sure.of_100)
        """
        if isinstance(questions, str):
            return self.answer([questions], look_up, recite)[0]
        given_as = list(questions)
        if not given_as:
            return []
        from kgpt_jax.answer import hybrid, predict
        from kgpt_jax.answer.voters import ask
        from kgpt_jax.data.corpus import log_notes
        from kgpt_jax.model.gpt import GPT

        asked = [predict.tidy(question) for question in given_as]
        judge = self._judge
        if look_up == UNSURE:
            judge.check(recite)
        given = ask(judge.voters, asked, book=self._open_book if recite else None)
        model = GPT(self.config.model)
        log_notes(given.notes)
        answers, sure = given.vote, judge.sure(asked, given)
        scores = [
            predict.log_probabilities(model, each, self.vocab, asked, answers)
            for each in judge.voters[0].models
        ]
        means = [predict.mean_log_probability(of_answer) for of_answer in zip(*scores)]
        recited = list(zip(*given.recited)) or [()] * len(asked)
        found = [Answer(*row) for row in zip(given_as, answers, means, sure, recited)]
        if look_up == NEVER:
            return found
        told = hybrid.look_up(self._open_book, look_up, asked, answers, sure)
        return [dataclasses.replace(own, answer=each.answer, told=each) for own, each in zip(found, told)]

    @cached_property
    def _judge(self) -> "Judge":
        params = self.params
        from kgpt_jax.answer.sure import Judge
        from kgpt_jax.answer.voters import Voter
        from kgpt_jax.store.compatible import fit_to

        return Judge([Voter(self._stored, fit_to(self._stored, self.config), params)])

    @cached_property
    def _open_book(self) -> "OpenBook":
        from kgpt_jax.answer.open_book import open_book

        return open_book(self.config.data)

    def logits(self, text: str) -> "np.ndarray":
        """Returns the logits of the next character at each position of a text.

        Args:
          text: 1 to `config.model.seq_len` characters of the vocabulary. To ask for an answer, end the
            question with the MASK character, "⁇".

        Returns:
          float32 logits (T, V). Row t scores the character at t + 1; column `vocab.id_of[c]` is the logit of
          the character c. The variant encoder_decoder takes the text up to its first MASK as its source, and
          rows before that MASK mean nothing.

        Raises:
          UserError: the text is empty or too long, or has a character that the vocabulary lacks.
        """
        model, params = self._first_model()
        from kgpt_jax.answer.decode import logits

        self._check_length(text)
        return logits(model, params, self.vocab.encode(text), _source(text))

    def attention(self, text: str | Answer) -> "list[Map]":
        """Returns the attention weights of each layer while the run's first model reads a text.

        Args:
          text: the text, at most `config.model.seq_len` characters; or an `Answer`, which stands for the text
            of its question, a MASK and its answer.

        Returns:
          A `Map` for each layer, from the first to the last: `weights_HTS` (heads, T query positions, S key
          positions) and the names of its rows and columns.

        Raises:
          UserError: the text does not fit or has a character that the vocabulary lacks, or the variant has no
            weights by position (linformer).

        Example::

            first = run.attention(run.answer("Where was Ruth Kaplan born?"))[0]
            first.weights_HTS.mean(axis=0)
        """
        model, params = self._first_model()
        from kgpt_jax.answer.attention import attention_maps
        from kgpt_jax.data.vocab import MASK

        if isinstance(text, Answer):
            known = "".join(c for c in text.question.strip() if c in self.vocab.id_of)  # as `answer` read it
            text = f"{known}{MASK}{text.answer}"
            if len(text) == self.config.model.seq_len + 1:
                text = text[:-1]  # the model wrote this character and did not read it
        self._check_length(text)
        return attention_maps(model, params, self.vocab, text, _source(text))

    def sample(
        self,
        prompt: str,
        n: int = 1,
        temperature: float = 1.0,
        *,
        max_new: int = 100,
        top_k: int = 0,
        seed: int | None = None,
    ) -> list[str]:
        """Continues a prompt `n` times, each time up to the end of the text.

        Args:
          prompt: the beginning of the texts.
          n: how many texts.
          temperature: 0 writes the likeliest character each time; higher values draw more freely.
          max_new: the most characters to add.
          top_k: draws from this many likeliest characters; 0 draws from all.
          seed: seeds the sampling; None takes the config's seed.

        Returns:
          The texts, each one line that begins with the prompt. `kgpt_jax.answer.decode.sample` explains where
          a text ends.

        Raises:
          UserError: the prompt is empty or too long, has a character that the vocabulary lacks, a number is
            too low, or so many texts need more memory than there is.
        """
        _, params = self._first_model()
        from kgpt_jax.answer.decode import sample

        config = self.config if seed is None else dataclasses.replace(self.config, seed=seed)
        return sample(self._stored, config, prompt, n, max_new, temperature, top_k, params)

    def _first_model(self) -> tuple[Any, Any]:
        params = self.params
        from kgpt_jax.model.gpt import GPT
        from kgpt_jax.store.params import models

        return GPT(self.config.model), models(self._stored, params)[0]

    def _check_length(self, text: str) -> None:
        longest = self.config.model.seq_len
        if not 1 <= len(text) <= longest:
            raise UserError(f"the text has {len(text)} characters: give 1 to {longest}")


def load(folder: str | Path, checkpoint: str | int = "newest") -> Run:
    """Returns the run in a folder. It reads the JSON files only, and does not import JAX.

    Args:
      folder: the run's folder, such as "runs/vanilla/finetune".
      checkpoint: the checkpoint to use: "newest", "best" (the least loss), or an update's number.

    Raises:
      UserError: the folder holds no run, or its files are damaged.

    Example::

        run = kgpt_jax.load("runs/vanilla/finetune")
    """
    from kgpt_jax.store.folder import read_run

    return Run(read_run(folder, str(checkpoint)))


def pretrain(
    config: Config | str,
    corpus: str | Path | Sequence[str] | None = None,
    workdir: str | Path = "runs",
) -> Run:
    """Trains a new model on documents, like `--mode=pretrain`.

    The run's folder is `workdir`/variant/pretrain. The same call resumes an interrupted run, and returns at
    once if the run is finished. Ctrl-C saves a checkpoint and raises KeyboardInterrupt; a second Ctrl-C
    before that ends Python.

    Args:
      config: a `Config`, or the name of a recipe, such as "quickstart", or the path of one.
      corpus: the path of a file with one document per line; or a list of documents, which is written to a
        file in the run's folder. None takes the config's corpus, by default the built-in people.
      workdir: the folder for runs.

    Returns:
      The trained run.

    Raises:
      UserError: the recipe or the corpus cannot be read, `workdir` is not a local path, the folder holds
        another run, or the model needs more memory than there is.

    Example::

        config = kgpt_jax.override(kgpt_jax.load_recipe("quickstart"), {"model.variant": "rope"})
        read = kgpt_jax.pretrain(config, "wiki.txt", "runs")
    """
    config = load_recipe(config) if isinstance(config, str) else config
    check_local("workdir", str(workdir))
    folder = Path(workdir) / config.model.variant / "pretrain"
    if isinstance(corpus, str) and not corpus:
        raise UserError("corpus is '': give the path of a file, a list of documents, or None")
    if corpus is not None:
        from kgpt_jax.data.given import write_documents

        path = corpus if isinstance(corpus, str | Path) else write_documents(folder, corpus)
        data = dataclasses.replace(config.data, pretrain_corpus_path=str(path))
        config = dataclasses.replace(config, data=data)
    _start_jax()
    from kgpt_jax.train import stages

    with _interruptible():
        return Run(stages.pretrain(config, folder).run)


def finetune(
    run: Run,
    pairs: "str | Path | Sequence[tuple[str, str]] | None" = None,
    workdir: str | Path | None = None,
    config: str | Config | None = None,
) -> Run:
    """Trains a run on questions with their answers, like `--mode=finetune`.

    The same call resumes an interrupted run, and returns at once if the run is finished. Ctrl-C saves a
    checkpoint and raises KeyboardInterrupt; a second Ctrl-C before that ends Python. `run` itself does not
    change.

    Args:
      run: the run to start from, usually a pretrained one.
      pairs: the path of a file with lines of question, tab, answer; or a list of (question, answer), which is
        written to a file in the new run's folder. None takes the config's pairs, by default those about the
        built-in people.
      workdir: the folder for runs; the new run's folder is `workdir`/variant/finetune. None makes a folder
        "finetune" next to the folder of `run`.
      config: a recipe's name or a config; None takes the config of `run`. `kgpt_jax.override` changes fields
        of a config. The model must be that of `run`. If the config names no documents, the file of documents
        of `run` is used. Built-in people must be those of `run`.

    Returns:
      The trained run.

    Raises:
      UserError: the pairs cannot be read or do not fit, `config` asks for another model, `workdir` is not
        a local path, the folder holds another run, or the model needs more memory than there is.

    Example::

        config = kgpt_jax.override(read.config, {"finetune.epochs": 20})
        run = kgpt_jax.finetune(read, [("Where was Ada Bell born?", "Rome")], config=config)
    """
    there = run.config.data
    config = load_recipe(config) if isinstance(config, str) else config or run.config
    if there.pretrain_corpus_path and not config.data.pretrain_corpus_path:
        data = dataclasses.replace(config.data, pretrain_corpus_path=there.pretrain_corpus_path)
        config = dataclasses.replace(config, data=data)
    check_local("workdir", str(workdir or ""))
    home = run.folder.parent if workdir is None else Path(workdir) / run.config.model.variant
    folder = home / "finetune"
    if folder.resolve() == run.folder.resolve():
        raise UserError(f"{folder} holds the run to start from: give another workdir")
    if isinstance(pairs, str) and not pairs:
        raise UserError("pairs is '': give the path of a file, a list of pairs, or None")
    if pairs is not None:
        from kgpt_jax.data.given import write_pairs

        path = pairs if isinstance(pairs, str | Path) else write_pairs(folder, pairs)
        data = dataclasses.replace(config.data, finetune_corpus_path=str(path))
        config = dataclasses.replace(config, data=data)
    elif config.data.pretrain_corpus_path and not config.data.finetune_corpus_path:
        raise UserError(f"{run.folder} was trained on your own documents: give pairs to finetune it on")
    _start_jax()
    from kgpt_jax.train import stages

    with _interruptible():
        return Run(stages.finetune(config, folder, run._stored).run)


def evaluate(
    run: Run, pairs: "str | Path | Sequence[tuple[str, str]] | None" = None, *, beams: int = 0
) -> "Score":
    """Asks a run questions and counts the answers that are exactly right, like `--mode=evaluate`.

    Args:
      run: the run that answers.
      pairs: the path of a file with lines of question, tab, answer; or a list of (question, answer). None
        takes the questions of the run's config, by default those about the held-out built-in people.
      beams: 0 lets the model write any text. With a larger number it chooses from the places in the corpus,
        by a beam search of this width.

    Returns:
      A `Score`: `correct`, `total`, `accuracy` and the 95 % `interval`.

    Raises:
      UserError: the questions cannot be read or have no answers, `beams` is negative, or the run has learned
        some of the answers (with `config.data.skip_learned` these questions are left out).

    Example::

        score = kgpt_jax.evaluate(run, "birth_dev.tsv")
        print(f"{score.accuracy:.1%}")
    """
    if beams < 0:
        raise UserError(f"beams is {beams}: give 0 or more")
    from kgpt_jax.data.corpus import load_questions, read_table
    from kgpt_jax.data.given import table_of

    if pairs is None:
        data = run.config.data
        if data.pretrain_corpus_path and not data.eval_corpus_path and not data.n_validation:
            raise UserError(f"{run.folder} was trained on your own documents: give pairs to ask it")
        table = load_questions(data)
    elif isinstance(pairs, str | Path):
        table = read_table(str(pairs))
    else:
        table = table_of(pairs)
    if table.answers is None:
        raise UserError("the questions have no answers to compare with: run.answer asks without a score")
    judge = run._judge
    from kgpt_jax.answer import evaluate as evaluation
    from kgpt_jax.store.compatible import check_corpus

    check_corpus(run._stored, run.config.data)
    found = evaluation.evaluate(judge, run.config.data, beams, table)
    assert found.score is not None
    return found.score


def _start_jax() -> None:
    from kgpt_jax.devices import find_devices

    _quiet_orbax()
    find_devices()


@cache
def _quiet_orbax() -> None:
    """Hides Orbax's warnings, which are about its own options. Orbax raises its errors anyway."""
    from absl import logging as absl_logging

    absl_logging.get_absl_logger().addFilter(
        lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turns the SystemExit of a training that Ctrl-C stopped into a KeyboardInterrupt, for notebooks."""
    try:
        yield
    except SystemExit as stop:
        if stop.code == 130:
            raise KeyboardInterrupt from None
        raise


def _source(text: str) -> int:
    """Returns how many characters are given: those up to the first MASK, or one if there is no MASK."""
    from kgpt_jax.data.vocab import MASK

    return text.find(MASK) + 1 or 1

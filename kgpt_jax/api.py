"""The Python API: runs that answer, and the stages of training. `kgpt_jax` exports these names.

Functions import JAX and the rooms below when they are called, so that importing and `load` are quick.

Axes: `T` positions of a text, `V` vocabulary.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kgpt_jax.answer.record import Answer
from kgpt_jax.config import Config, UserError, load_recipe

if TYPE_CHECKING:
    import numpy as np

    from kgpt_jax.answer.attention import Map
    from kgpt_jax.answer.score import Score
    from kgpt_jax.data.corpus import Table
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.folder import Run as StoredRun

Pairs = Sequence[tuple[str, str]]  # of question and answer


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
        """The run's settings."""
        return self._stored.config

    @property
    def vocab(self) -> "Vocab":
        """The characters that the run knows, with their ids."""
        return self._stored.vocab

    @cached_property
    def params(self) -> Any:
        """The parameters: a nested dict of float32 arrays.

        The arrays of a run of several models have a leading axis, one entry for each model.

        Raises:
          UserError: the run has no valid checkpoint, or needs more memory than the machine has.
        """
        _start_jax()
        from kgpt_jax.store.params import load_params

        return load_params(self._stored, model_devices=self.config.model_devices)

    @overload
    def answer(self, questions: str) -> Answer: ...

    @overload
    def answer(self, questions: list[str] | tuple[str, ...]) -> list[Answer]: ...

    def answer(self, questions: str | list[str] | tuple[str, ...]) -> Answer | list[Answer]:
        """Answers one question, or several in one go.

        The answers are those of `--mode=evaluate`. Characters that the vocabulary lacks are left out of a
        question; the logger "kgpt_jax" says so.

        Args:
          questions: a question, or a list of them.

        Returns:
          An `Answer`, or for a list a list of them in the same order.

        Raises:
          UserError: the run has no valid checkpoint.

        Example::

            for answer in run.answer(["Where was Ruth Kaplan born?", "Where was Ada Bell born?"]):
                print(answer.question, answer.answer, answer.log_probability)
        """
        if isinstance(questions, str):
            return self.answer([questions])[0]
        params, asked = self.params, list(questions)
        from kgpt_jax.answer import predict
        from kgpt_jax.answer.score import vote
        from kgpt_jax.data.corpus import log_notes
        from kgpt_jax.model.gpt import GPT
        from kgpt_jax.store.params import models

        if not asked:
            return []
        given = predict.ask(self._stored, self.config, asked, params=params)
        log_notes(given.notes)
        answers, model = vote(given.answers), GPT(self.config.model)
        scores = [
            predict.log_probabilities(model, each, self.vocab, asked, answers)
            for each in models(self._stored, params)
        ]
        means = [predict.mean_log_probability(of_answer) for of_answer in zip(*scores)]
        return [Answer(*row) for row in zip(asked, answers, means)]

    def logits(self, text: str) -> "np.ndarray":
        """Returns the scores of the next character at each position of a text.

        Args:
          text: 1 to `config.model.seq_len` characters of the vocabulary. A question that waits for its answer
            ends with the MASK character, "⁇".

        Returns:
          float32 logits (T, V): row t has the scores of character t + 1. Column `vocab.id_of[c]` is the score
          of the character c. Variants that read a source as a whole (encoder_decoder) take the text up to its
          first MASK as the source, and their logits count from there on.

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
          text: the text, at most `config.model.seq_len` characters; or an `Answer`, which is read as its
            question, a MASK and its answer.

        Returns:
          A `Map` for each layer, from the first to the last: `weights_HTS` (heads, T query positions, S key
          positions) and the names of its rows and columns.

        Raises:
          UserError: the text does not fit, or the variant has no weights by position (linformer).

        Example::

            first = run.attention(run.answer("Where was Ruth Kaplan born?"))[0]
            first.weights_HTS.mean(axis=0)
        """
        model, params = self._first_model()
        from kgpt_jax.answer.attention import attention_maps
        from kgpt_jax.data.vocab import MASK

        if isinstance(text, Answer):
            text = f"{text.question}{MASK}{text.answer}"
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
          seed: decides what is drawn; None takes the config's seed.

        Returns:
          The texts, each one line that begins with the prompt. `kgpt_jax.answer.decode.sample` says where a
          text ends.

        Raises:
          UserError: the prompt is empty or too long, has a character that the vocabulary lacks, or so many
            texts need more memory than the machine has.
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


def load(folder: str | Path, checkpoint: str = "newest") -> Run:
    """Returns the run in a folder. Reads its JSON files only, and takes no JAX.

    Args:
      folder: the run's folder, such as "runs/vanilla/finetune".
      checkpoint: which parameters the run uses: "newest", "best" (the least loss), or an update's number.

    Raises:
      UserError: the folder holds no run, or its files are damaged.

    Example::

        run = kgpt_jax.load("runs/vanilla/finetune")
    """
    from kgpt_jax.store.folder import read_run

    return Run(read_run(folder, checkpoint))


def pretrain(
    config: Config | str,
    corpus: str | Path | Sequence[str] | None = None,
    workdir: str | Path = "runs",
) -> Run:
    """Trains a new model on documents; `--mode=pretrain` in Python.

    The run's folder is `workdir`/variant/pretrain. The same call resumes a run that was interrupted, and
    returns at once if the run is finished. Ctrl-C saves the run and raises KeyboardInterrupt.

    Args:
      config: a `Config`, or a recipe's name such as "quickstart" or path.
      corpus: a file of documents, one a line; or a list of documents, which is written to a file in the run's
        folder; None takes the config's corpus, which by default is the built-in people.
      workdir: where runs live.

    Returns:
      The trained run.

    Raises:
      UserError: the recipe or the corpus cannot be read, the folder holds another run, or the model needs
        more memory than the machine has.

    Example::

        config = kgpt_jax.override(kgpt_jax.load_recipe("quickstart"), {"model.variant": "rope"})
        read = kgpt_jax.pretrain(config, "wiki.txt", "runs")
    """
    config = load_recipe(config) if isinstance(config, str) else config
    folder = Path(workdir) / config.model.variant / "pretrain"
    if corpus is not None:
        path = corpus if isinstance(corpus, str | Path) else _write_documents(folder, corpus)
        data = dataclasses.replace(config.data, pretrain_corpus_path=str(path))
        config = dataclasses.replace(config, data=data)
    _start_jax()
    from kgpt_jax.train import stages

    with _interruptible():
        return Run(stages.pretrain(config, folder).run)


def finetune(
    run: Run,
    pairs: str | Path | Pairs | None = None,
    workdir: str | Path | None = None,
    config: Config | None = None,
) -> Run:
    """Trains a run on questions with their answers; `--mode=finetune` in Python.

    The same call resumes a run that was interrupted, and returns at once if the run is finished. Ctrl-C saves
    the run and raises KeyboardInterrupt. `run` itself does not change.

    Args:
      run: the run to start from, pretrained as a rule.
      pairs: a file of question, tab, answer; or a list of (question, answer), which is written to a file in
        the new run's folder; None takes the config's pairs, which by default are about the built-in people.
      workdir: where runs live: the new run's folder is `workdir`/variant/finetune. None puts a folder
        "finetune" beside the folder of `run`.
      config: the settings; None takes those of `run`. `kgpt_jax.override` changes some of them. The model
        must be that of `run`.

    Returns:
      The trained run.

    Raises:
      UserError: the pairs cannot be read or do not fit, `config` asks for another model, the folder holds
        another run, or the model needs more memory than the machine has.

    Example::

        config = kgpt_jax.override(read.config, {"finetune.epochs": 20})
        run = kgpt_jax.finetune(read, [("Where was Ada Bell born?", "Rome")], config=config)
    """
    config = run.config if config is None else config
    home = run.folder.parent if workdir is None else Path(workdir) / run.config.model.variant
    folder = home / "finetune"
    if pairs is not None:
        path = pairs if isinstance(pairs, str | Path) else _write_pairs(folder, pairs)
        data = dataclasses.replace(config.data, finetune_corpus_path=str(path))
        config = dataclasses.replace(config, data=data)
    elif config.data.pretrain_corpus_path and not config.data.finetune_corpus_path:
        raise UserError(f"{run.folder} was trained on your own documents: give pairs to finetune it on")
    _start_jax()
    from kgpt_jax.train import stages

    with _interruptible():
        return Run(stages.finetune(config, folder, run._stored).run)


def evaluate(run: Run, pairs: str | Path | Pairs | None = None, *, beams: int = 0) -> "Score":
    """Asks a run questions and counts the answers that are right to the letter; `--mode=evaluate` in Python.

    Args:
      run: the run that answers.
      pairs: a file of question, tab, answer; a list of (question, answer); None takes the questions of the
        run's config, which by default are about built-in people who are held out.
      beams: 0 lets the model write any text; above 0 it chooses from the places of the corpus, by a beam
        search of this width.

    Returns:
      A `Score`: `correct`, `total`, `accuracy` and the 95 % `interval`.

    Raises:
      UserError: the questions cannot be read or have no answers, or the run has learned some of the answers
        (with `config.data.skip_learned` these questions are left out).

    Example::

        score = kgpt_jax.evaluate(run, "birth_dev.tsv")
        print(f"{score.accuracy:.1%}")
    """
    from kgpt_jax.data.corpus import load_questions, read_table

    if pairs is None:
        data = run.config.data
        if data.pretrain_corpus_path and not data.eval_corpus_path and not data.n_validation:
            raise UserError(f"{run.folder} was trained on your own documents: give pairs to ask it")
        table = load_questions(data)
    elif isinstance(pairs, str | Path):
        table = read_table(str(pairs))
    else:
        table = _table(pairs)
    if table.answers is None:
        raise UserError("the questions have no answers to compare with: run.answer asks without a score")
    params = run.params
    from kgpt_jax.answer import evaluate as evaluation

    found = evaluation.evaluate(run.config, run._stored, beams, table=table, params=params)
    assert found.score is not None
    return found.score


def _start_jax() -> None:
    from kgpt_jax.devices import find_devices

    _quiet_orbax()
    find_devices()


@cache
def _quiet_orbax() -> None:
    """Hides Orbax's warnings, which are about its own options. What matters in them it also raises."""
    from absl import logging as absl_logging

    absl_logging.get_absl_logger().addFilter(
        lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turns the end of a training that Ctrl-C stopped into a KeyboardInterrupt, which a notebook survives."""
    try:
        yield
    except SystemExit as stop:
        if stop.code == 130:
            raise KeyboardInterrupt from None
        raise


def _source(text: str) -> int:
    """Returns the characters that are given: those up to the first MASK, or one if there is none."""
    from kgpt_jax.data.vocab import MASK

    return text.find(MASK) + 1 or 1


def _table(pairs: Pairs) -> "Table":
    """Returns a table of the pairs; a UserError names a pair that is no question with an answer."""
    from kgpt_jax.data.corpus import Table

    rows = [tuple(text.strip() for text in pair) for pair in pairs]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row) or any(c in text for text in row for c in "\t\r\n"):
            raise UserError(
                f"pair {number} is {row!r}: give one line each of question and answer, without tabs"
            )
    if not rows:
        raise UserError("there are no pairs: give one or more")
    return Table([row[0] for row in rows], [row[1] for row in rows], [])


def _write_pairs(folder: Path, pairs: Pairs) -> Path:
    return _write_lines(folder, "pairs", ".tsv", ["\t".join(row) for row in _table(pairs).pairs])


def _write_documents(folder: Path, documents: Sequence[str]) -> Path:
    for number, document in enumerate(documents, 1):
        if "\n" in document or "\r" in document:
            raise UserError(f"document {number} has a line break: a document is one line")
    if not any(document.strip() for document in documents):
        raise UserError("there are no documents: give one or more")
    return _write_lines(folder, "documents", ".txt", documents)


def _write_lines(folder: Path, name: str, ending: str, lines: Sequence[str]) -> Path:
    """Writes lines to a file in a run's folder, and returns its path.

    The name has a digest of the lines, so that other lines never replace those that the run was trained on.
    The last line has no line break: behind it the corpus's reader would find one more, empty document.
    """
    from kgpt_jax.data.corpus import digest

    path = folder / f"{name}_{digest(lines)}{ending}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), "utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another workdir") from None
    return path

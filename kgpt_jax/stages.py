"""What each `--mode` does: data in, a run's folder or a file out.

A run of stage S of variant V lives in `<workdir>/V/S/`: pretrain, finetune, scratch (finetuned without
pretraining), distill, and evaluate, which holds predictions. A stage reads model and vocabulary from the
folder it starts from. Functions here say on the screen what they use and where they put it.
"""

import dataclasses
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from kgpt_jax.answer import evaluate as scoring
from kgpt_jax.answer.decode import check_rows, continue_texts, pad_prompts
from kgpt_jax.answer.voters import ask, unlearned, voting
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import biographies, corpus
from kgpt_jax.data.batches import steps_per_epoch
from kgpt_jax.data.chapters import Chapters, chapters, cut_up, in_chapters, n_stripes
from kgpt_jax.data.holdout import refuse_learned
from kgpt_jax.data.mixture import examples_of, mixture, preceded, weights
from kgpt_jax.data.objectives import NEED_PAIRS, Material, Objective
from kgpt_jax.data.spans import places
from kgpt_jax.data.vocab import PAD, Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.outputs import check, record
from kgpt_jax.train.checkpoint import Checkpoints, first_model, load_params, params_digest
from kgpt_jax.train.loop import check_fits, train
from kgpt_jax.train.run import (
    Run,
    check_corpus,
    fit_to,
    held,
    learned_by,
    open_run,
    read_run,
    with_vocab,
    write_json,
)
from kgpt_jax.train.sharding import is_first
from kgpt_jax.train.torch_params import count_params, load_torch_params, save_torch_params

STAGE_OBJECTIVES = {
    "pretrain": "span_corruption",
    "finetune": "question_answer",
    "scratch": "question_answer",
}
PREDICTIONS = Path("evaluate") / "predictions.txt"  # below <workdir>/<variant>/
SAMPLE_BREAK = f"\n{'-' * 40}\n"


class Taught(NamedTuple):
    """Questions with answers besides the training pairs, and the runs whose models gave the answers."""

    pairs: list[tuple[str, str]]
    by: list[str]
    learned: frozenset[str]  # fingerprints of the questions whose true answers these have learned


NOT_TAUGHT = Taught([], [], frozenset())


def pretrain(config: Config, folder: Path, tensorboard: bool = False, taught: Taught = NOT_TAUGHT) -> float:
    """Trains on the corpus's documents, and what is `taught` besides; returns the seconds of training."""
    documents, characters, notes = corpus.load_documents(config.data)
    say(notes)
    vocab = Vocab.of(characters)
    config = with_vocab(config, vocab, config.seed)
    check_fits(config, "pretrain")
    objective, n_examples, facts = objective_of(config, "pretrain", vocab, taught, documents)
    # Where no pairs are learned, the data are the documents alone.
    facts["corpus_digest"] = corpus.digest(documents) if facts["learned"] else facts["data_digest"]
    size = count_params(config.model)
    with held(folder):
        run = open_run(folder, config, vocab, facts)
        print(
            f"pretraining: {config.model.variant}, {size:,} parameters, {len(documents):,} documents, "
            f"{len(vocab)} symbols, into {folder}"
        )
        return train(run, config.pretrain, objective, n_examples, tensorboard=tensorboard)[1]


def finetune(
    config: Config, folder: Path, start: Run | None, tensorboard: bool = False, taught: Taught = NOT_TAUGHT
) -> float:
    """Trains on questions with answers, from the run `start` or, where that is None, from scratch.

    To the training pairs comes what is `taught`. Returns the seconds of training.
    """
    table = corpus.load_pairs(config.data)
    say(table.notes)
    if start is None:
        stage, params = "scratch", None
        documents, characters, _ = corpus.load_documents(config.data)
        vocab, corpus_digest = Vocab.of(characters), corpus.digest(documents)
        config = with_vocab(config, vocab, config.seed)
        check_fits(config, stage)
        print("starting from scratch")
    else:
        config = fit_to(start, config)
        check_corpus(start, config.data)
        if config.data.n_validation and not config.data.skip_learned:
            refuse_learned(
                corpus.load_questions(config.data).questions, learned_by([start]), str(start.folder)
            )
        stage, vocab, corpus_digest = "finetune", start.vocab, start.facts.get("corpus_digest", "")
        taught = taught._replace(learned=taught.learned | learned_by([start]))
        check_fits(config, stage)
        params = load_params(start, "starting from", config.model_devices)
    objective, n_examples, facts = objective_of(config, stage, vocab, taught)
    if corpus_digest:
        facts["corpus_digest"] = corpus_digest
    if start is not None:
        facts |= {"started_from": str(start.folder), "start_digest": params_digest(params)}
    with held(folder):
        run = open_run(folder, config, vocab, facts)
        n_questions = len(table.questions) + len(taught.pairs)
        print(f"finetuning: {config.model.variant}, {n_questions:,} questions, into {folder}")
        return train(run, getattr(config, stage), objective, n_examples, params, tensorboard)[1]


def recipe_of(config: Config, stage: str) -> str:
    """Returns a stage's objective or mixture, as the config says it or as the stage has it."""
    return getattr(config, stage).objective or STAGE_OBJECTIVES[stage]


def objective_of(
    config: Config,
    stage: str,
    vocab: Vocab,
    taught: Taught = NOT_TAUGHT,
    documents: Sequence[str] | None = None,
) -> tuple[Objective | Chapters, int, dict]:
    """Returns a stage's objective, how many examples an epoch has, and what `run.json` says of both.

    The objective of many documents comes in chapters; None reads those of the config. A UserError names the
    training pair that does not fit.
    """
    cfg = getattr(config, stage)
    recipe = recipe_of(config, stage)
    needed = weights(recipe).keys()
    if needed == {"question_answer"}:
        documents = []
    elif documents is None:
        documents = corpus.load_documents(config.data).documents
    pairs = corpus.load_pairs(config.data).pairs if needed & NEED_PAIRS else []
    all_pairs = [*pairs, *taught.pairs]
    for line, texts in enumerate(pairs, 1):
        if unknown := vocab.unknown("".join(texts)):
            raise UserError(
                f"training pair {line} has {unknown!r}, which the vocabulary lacks, in {texts}: "
                "give the pairs as --finetune_corpus_path when pretraining, too, or remove this one"
            )

    def made(documents: list[str], *questions) -> Objective:
        objective, _ = mixture(recipe, Material(documents, all_pairs), vocab, config.model, *questions)
        return preceded(objective, cfg.preceded) if cfg.preceded else objective

    n_documents, text_length = len(documents), config.model.seq_len + 1
    stripes = n_stripes(config.data.stripes, cfg, n_documents, text_length)
    cuts = cut_up(n_documents, stripes, text_length)
    more_facts, learned = {}, taught.learned
    if pairs:
        learned |= corpus.learned_from(config.data)
        more_facts["most_frequent_answer"] = scoring.most_frequent([answer for _, answer in pairs])
    if taught.by:
        more_facts["taught_by"] = taught.by
    if len(cuts) == len(cuts[0]) == 1:
        objective, n = made(documents[:]), examples_of(recipe, len(documents), len(all_pairs))
    else:
        objective = in_chapters(recipe, documents, all_pairs, cuts, made)
        n = sum(objective.updates(cfg)) * cfg.batch_size  # chapters' last batches are filled up
        more_facts["stripes"] = objective.n_stripes
    texts = chain(documents, (text for texts in zip(*all_pairs) for text in texts))
    facts = {
        "stage": stage,
        "updates": steps_per_epoch(n, cfg) * cfg.epochs,
        "data_digest": corpus.digest(texts),
        "learned": " ".join(sorted(learned)),
    }
    return objective, n, facts | more_facts


def evaluate(
    config: Config, run: Run, outputs: Path, beams: int = 0, voters: Sequence[Path] = ()
) -> tuple[scoring.Score, list, float] | None:
    """Answers the evaluation questions with a run and writes the answers to `outputs`.

    With `beams`, answers come from a list of places only, by a search with so many beams. Runs in `voters`
    answer as well: what is written and scored is the vote of all. Questions whose answers a run has learned
    are not scored (`answer/voters.py`, `unlearned`).

    Returns the score, the constant baselines as (answer, score), and the seconds of answering; None
    where the questions have no answers.
    """
    asked = [(run, fit_to(run, config)), *voting(voters, config)]
    check_corpus(run, config.data)
    table = corpus.load_questions(config.data)
    say(table.notes)
    kind = predictions_kind(beams, len(asked))
    if is_first():  # one that cannot be written is better known now
        data = config.data
        check(outputs, kind, [data.pretrain_corpus_path, data.finetune_corpus_path, data.eval_corpus_path])
    if table.answers is not None:
        rows = unlearned([each for each, _ in asked], table.questions, config.data)
    entries = None
    if beams:
        known = set(corpus.load_pairs(config.data).answers)
        entries = places(corpus.load_documents(config.data).documents, known)
        print(f"answers are restricted to {len(entries):,} places")
    answers, seconds = [], 0.0  # of each model
    for voter, fitted in asked:
        if never_asked(voter):
            print(f"note: {voter.folder} was never finetuned on questions: expect no answers of it")
        said = ask(voter, fitted, table.questions, entries=entries, beams=beams)
        say(said.notes)
        answers += said.answers
        seconds += said.seconds
    predictions = scoring.vote(answers)
    if is_first():
        scoring.write_predictions(outputs, predictions)
        record(outputs, kind)
    print(f"wrote {len(predictions):,} predictions to {outputs}")
    if table.answers is None:
        print("the questions have no answers to compare with: nothing scored")
        return None
    right = table.rows(rows).answers
    answers = [[said[i] for i in rows] for said in answers]
    if len(answers) > 1:
        shares = [scoring.score(said, right).accuracy for said in answers]
        print(f"{len(shares)} models, each: {', '.join(f'{share:.1%}' for share in shares)}")
        print(f"their mean: {np.mean(shares):.1%}, 95% interval {percent(scoring.mean_interval(shares))}")
        print("their vote:")
    score = scoring.score([predictions[i] for i in rows], right)
    correct, total = float(score.correct), float(score.total)
    print(f"Correct: {correct} out of {total}: {correct / total * 100}%")
    print(f"95% interval: {percent(score.interval)}")
    return score, constants(right, run.facts.get("most_frequent_answer", "London")), seconds


def never_asked(run: Run) -> bool:
    """Tells whether a run was pretrained on documents alone."""
    return run.facts["stage"] == "pretrain" and "question_answer" not in weights(
        recipe_of(run.config, "pretrain")
    )


def predictions_kind(beams: int, n_runs: int) -> str:
    """Returns in a few words how predictions were made; those of another kind are not overwritten."""
    how = f"answers by {beams} beams" if beams else "greedy answers"
    return f"{how}, a vote of {n_runs} runs" if n_runs > 1 else how


def constants(right: list[str], *answers: str) -> list[tuple[str, scoring.Score]]:
    """Prints and returns the scores of London and of other answers that are always the same."""
    baselines = []
    for answer in dict.fromkeys(["London", *answers]):
        baseline = scoring.score([answer] * len(right), right)
        baselines.append((answer, baseline))
        print(
            f"always {answer!r}: {baseline.correct} out of {baseline.total}: "
            f"{baseline.accuracy:.1%}, 95% interval {percent(baseline.interval)}"
        )
    return baselines


def score_constants(config: Config):
    """Prints how many evaluation questions are answered right by always saying London."""
    table = corpus.load_questions(config.data)
    if table.answers is None:
        raise UserError("the questions have no answers to compare with: give others as --eval_corpus_path")
    constants(table.answers)


def run_all(config: Config, root: Path, tensorboard: bool = False):
    """Runs all stages, with and without pretraining; prints one table and writes `summary.json`.

    Seconds are those of training, without compilation, and of answering. What later stages read is checked
    before the first begins.
    """
    vocab = Vocab.of(corpus.load_documents(config.data).characters)
    objective_of(config, "finetune", vocab)
    for stage in STAGE_OBJECTIVES:
        check_fits(with_vocab(config, vocab), stage)
    corpus.load_questions(config.data)
    pretrain_seconds = pretrain(config, root / "pretrain", tensorboard)
    finetune_seconds = finetune(config, root / "finetune", read_run(root / "pretrain"), tensorboard)
    pretrained = evaluate(config, read_run(root / "finetune"), root / PREDICTIONS)
    scratch_seconds = finetune(config, root / "scratch", None, tensorboard)
    scratch = evaluate(config, read_run(root / "scratch"), root / "evaluate" / "scratch.txt")
    if pretrained is None:
        print("no table: the questions have no answers")
        return
    constant, baseline = max(pretrained[1], key=lambda named: named[1].correct)
    rows = [
        (f"always {constant}", baseline, 0.0),
        ("finetuned from scratch", scratch[0], scratch_seconds + scratch[2]),
        (
            "pretrained and finetuned",
            pretrained[0],
            pretrain_seconds + finetune_seconds + pretrained[2],
        ),
    ]
    summary = [
        {
            "name": name,
            "correct": score.correct,
            "total": score.total,
            "accuracy": score.accuracy,
            "interval": list(score.interval),
            "seconds": seconds,
        }
        for name, score, seconds in rows
    ]
    write_json(root / "summary.json", summary)
    heads = f"{'correct':>8}{'n':>6}{'accuracy':>10}{'95% interval':>18}{'seconds':>9}"
    print(f"\n{config.model.variant:<26}{heads}")
    for name, score, seconds in rows:
        print(
            f"{name:<26}{score.correct:>8}{score.total:>6}{score.accuracy:>10.1%}"
            f"{percent(score.interval):>18}{seconds:>9.1f}"
        )
    print(f"\nwrote {root / 'summary.json'}")


def show(config: Config, n: int):
    """Prints examples of pretraining, as the course's `dataset.py charcorruption` and `namedata` do."""
    vocab = Vocab.of(corpus.load_documents(config.data).characters)
    objective, n_examples, _ = objective_of(config, "pretrain", vocab)
    book = chapters(objective, n_examples)
    make, n_examples = book.make[0][0](), book.sizes[0][0]
    rng = np.random.default_rng((config.seed, 0))
    examples = make(rng)
    mixed = len(weights(recipe_of(config, "pretrain"))) > 1
    order = rng.permutation(n_examples) if mixed else range(n_examples)  # in a mixture questions come last
    for i in order[:n]:
        print(f"x: {vocab.decode(examples.x_NT[i])}\ny: {vocab.decode(examples.y_NT[i])}")


def sample(config: Config, run: Run, prompt: str, n: int, max_new: int, temperature: float, top_k: int):
    """Prints `n` continuations of a prompt by a run."""
    config = fit_to(run, config)
    seq_len = config.model.seq_len
    if unknown := run.vocab.unknown(prompt):
        raise UserError(f"--prompt has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if not 1 <= len(prompt) <= seq_len:
        raise UserError(f"--prompt has {len(prompt)} characters: give 1 to {seq_len}")
    if max_new > seq_len + 1 - len(prompt):
        max_new = seq_len + 1 - len(prompt)
        print(f"the model reads {seq_len} characters: writing {max_new}")
    model, params = GPT(config.model), first_model(run)
    check_rows(model, params, n, len(prompt) + max_new, f"--num_samples={n}", "lower it")
    prompt_BP, length_B = pad_prompts([run.vocab.encode(prompt)] * n, n, seq_len)
    new_BN = continue_texts(
        model,
        params,
        prompt_BP,
        length_B,
        jax.random.key(config.seed),
        max_new=max_new,
        stop_at_mask=False,
        temperature=temperature,
        top_k=top_k,
    )
    texts = [prompt + run.vocab.decode(new_N).rstrip(PAD) for new_N in np.asarray(new_BN)]
    print(SAMPLE_BREAK.join(texts))


def write_biographies(config: Config, folder: Path):
    """Writes the built-in corpus in the course's four files."""
    for path in biographies.write(biographies.generate(config.data.biographies), folder):
        print(f"wrote {path}")


def import_params(config: Config, source: str, folder: Path):
    """Makes a run's folder of a course `.params` file; the corpus gives the vocabulary."""
    documents, characters, notes = corpus.load_documents(config.data)
    say(notes)
    vocab = Vocab.of(characters)
    config = dataclasses.replace(with_vocab(config, vocab, config.seed), n_seeds=1)
    params = load_torch_params(source, config.model)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run already: give another --writing_params_path")
    digest = corpus.digest(documents)
    facts = {"stage": "import", "data_digest": digest, "corpus_digest": digest, "started_from": source}
    with held(folder):
        run = open_run(folder, config, vocab, facts)
        with Checkpoints(run) as checkpoints:
            checkpoints.save_params(params)
    print(f"{source} is now the run {folder}: {count(params):,} parameters")


def export_params(config: Config, run: Run, path: Path):
    """Writes a run's parameters as a file for the course's PyTorch code."""
    fit_to(run, config)
    check(path, "parameters")
    save_torch_params(str(path), first_model(run), run.config.model)
    record(path, "parameters")
    print(f"wrote {path}")


def count(params) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def say(notes: list[str], most: int = 5):
    """Prints notes, the first few in full and how many more there are."""
    for note in notes[:most]:
        print(f"note: {note}")
    if len(notes) > most:
        print(f"note: and {len(notes) - most} more like this")

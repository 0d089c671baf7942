"""One model out of several: it is trained on what they say by vote."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kgpt_jax import stages
from kgpt_jax.answer import evaluate as scoring
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.biographies import generate
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.spans import title_length
from kgpt_jax.train.run import read_run

FRAMED = 100  # training questions that are looked at to see what stands around a name


def distill(
    config: Config, folder: Path, teachers: Sequence[Path], student: Path | None, tensorboard: bool = False
) -> float:
    """Trains one model on the training pairs and on what the models of the runs `teachers` say by vote.

    They are asked about everybody who has a document and no training pair; what at least half of them say
    is taken for an answer (arXiv 1503.02531 with labels for soft targets). The model is pretrained on all
    this and the corpus or, where `student` names a pretrained run, that one is finetuned. Returns the
    seconds of training.
    """
    stage, flag = ("finetune", "config.finetune.objective") if student else ("pretrain", "objective")
    if "question_answer" not in weights(stages.recipe_of(config, stage)):
        raise UserError(f"distilling needs question_answer in --{flag}: that is how the vote is learnt")
    if student:
        read_run(student)  # one that is not there is better known before all are asked
    asked = stages.voting(teachers, config)
    if sum(run.config.n_seeds for run, _ in asked) < 2:
        raise UserError(
            f"{teachers[0]} holds one model, which is no vote: add runs by --voters, or train by --num_seeds"
        )
    questions = others(config, corpus.load_pairs(config.data).pairs)
    said = [model for run, own in asked for model in stages.ask(run, own, questions, None, beams=0)[0]]
    voted = agreed(questions, said, room=config.model.seq_len - 1)
    print(f"at least half of {len(said)} models agree on {len(voted):,} of {len(questions):,} new questions")
    taught = stages.Taught(voted, [str(teacher) for teacher in teachers])
    if student:
        return stages.finetune(config, folder, student, tensorboard, taught)
    return stages.pretrain(config, folder, tensorboard, taught)


def agreed(questions: list[str], said: list[list[str]], room: int) -> list[tuple[str, str]]:
    """Returns the questions to which at least half of the models say the same, and the answer.

    Left out is what says nothing, was broken off at the longest that is written, or needs more than `room`
    characters with its question.

    >>> agreed(["A?", "B?"], [["Rome", "Oslo"], ["Bonn", ""], ["Rome", "Cork"]], room=20)
    [('A?', 'Rome')]
    """
    return [
        (question, answer)
        for question, answer, each in zip(questions, scoring.vote(said), zip(*said))
        if 0 < len(answer) < scoring.MAX_ANSWER and len(question) + len(answer) <= room
        if 2 * each.count(answer) >= len(said)
    ]


def others(config: Config, pairs: list[tuple[str, str]]) -> list[str]:
    """Returns a question about everybody who has a document and no training pair."""
    if config.data.pretrain_corpus_path:
        return questions_like(pairs, corpus.load_documents(config.data).documents)
    people = generate(config.data.biographies)  # whose documents have no titles
    asked = {question for question, _ in pairs}
    held_out = [question for question, _ in people.train if question not in asked]
    return held_out + [question for question, _ in people.dev] + people.test


def questions_like(pairs: list[tuple[str, str]], documents: list[str]) -> list[str]:
    """Returns the question of the training pairs about everybody who has a document and no pair.

    What stands around a name is taken from the training questions that hold the title of a document.

    >>> pairs = [("Where was Al Bo born?", "Oslo"), ("Where was Cy Do born?", "Rome")]
    >>> questions_like(pairs, ["Al Bo. He sang.", "Ed Fa. She sang.", "Ed Fa. She danced."])
    ['Where was Ed Fa born?']
    """
    names = {document[: title_length(document)].removesuffix(". ") for document in documents} - {""}
    frames = Counter()
    for question, _ in pairs[:FRAMED]:
        if held := [name for name in names if name in question]:
            before, _, after = question.partition(max(held, key=len))
            frames[before, after] += 1
    if not frames:
        raise UserError(
            "no training question holds the title of a document, so nobody else can be asked about"
        )
    before, after = frames.most_common(1)[0][0]
    return sorted({f"{before}{name}{after}" for name in names} - {question for question, _ in pairs})

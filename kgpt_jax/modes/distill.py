"""--mode=distill: trains one model, the student, on the answers of others, its teachers.

    python -m kgpt_jax.main --mode=distill --workdir=runs/eight \
        --objective=span_corruption=0.8,question_answer=0.2
    python -m kgpt_jax.main --mode=distill --teacher=reader --student_params_path=runs/vanilla/pretrain
    python -m kgpt_jax.main --mode=distill --recite --reading_params_path=runs/speedrun/rope/pretrain \
        --student_params_path=runs/speedrun/rope/pretrain

The teachers answer a question about each person who has a document and no training pair. By default, they are
runs that vote: an answer that more than half of them give becomes a training pair (arXiv 1503.02531, with
labels in place of soft targets). With --recite, the runs recite what they have read about each name, and a
reader finds the answers in that; so a run can also be its own only teacher. With --teacher=reader, the
open-book reader finds the answers in the documents. Either reader's answers become training pairs if their
probability is above 50 %.

Teachers are asked held-out questions, too. They never see the true answers, but the student trains on what
they answer. The open-book reader answers from the documents, so evaluation then measures knowledge that was
injected as questions. Runs answer from what they have learned by reading.

By default, a new model is pretrained on the documents and on all pairs. With --student_params_path, a
pretrained run is finetuned on the pairs.
"""

from absl import flags

from kgpt_jax.config import UserError, override
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.modes.command import Command

SHARED = (
    "reading_params_path",
    "writing_params_path",
    "checkpoint",
    "start_anew",
    "tensorboard",
    "voters",
    "recite",
)


def define_flags(values: flags.FlagValues):
    flags.DEFINE_enum(
        "teacher",
        "runs",
        ["runs", "reader"],
        "Who answers: runs that vote, or the open-book reader.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "student_params_path",
        None,
        "Pretrained run to finetune; default: pretrains a new model.",
        flag_values=values,
    )


def run(command: Command):
    from kgpt_jax.answer.voters import distinct
    from kgpt_jax.store.folder import read_run

    student = command.flags.student_params_path
    student = read_run(student, command.flags.checkpoint) if student else None
    teachers = []
    if command.flags.teacher == "runs":
        teacher = command.start("finetune", of_variant=False)  # --variant is the student's
        teachers = [teacher, *map(read_run, distinct(teacher.folder, command.flags.voters)[1:])]
    elif given := [name for name in ("reading_params_path", "voters", "recite") if command.flags[name].value]:
        named = command.flags[given[0]].serialize()
        raise UserError(f"{named} is for runs, and --teacher=reader asks none: leave one of them out")
    config = command.config(student if student or command.flags.config or not teachers else teachers[0])
    config = override(config, {"n_seeds": 1})  # one student, however many teachers there are
    folder = command.new_run(config, "distill", student, *teachers)
    chosen = command.flags
    distill(config, folder, teachers, student, chosen.tensorboard, chosen.start_anew, chosen.recite)


def distill(
    config,
    folder,
    teachers,
    student,
    tensorboard: bool = False,
    start_anew: bool = False,
    recites: bool = False,
):
    """Trains one model on the answers of its teachers, and on the training pairs.

    Args:
      config: the recipe of the new model.
      folder: the new run's folder.
      teachers: the runs that vote; none for the open-book reader.
      student: a pretrained run to finetune; None pretrains a new model.
      tensorboard: whether to write event files for TensorBoard, too.
      start_anew: whether to move the files in the folder aside first.
      recites: whether the teachers recite.

    Raises:
      UserError: the objective has no questions, or a teacher has learned a held-out question.
    """
    from kgpt_jax.answer.teachers import taught_by_reader, taught_by_vote
    from kgpt_jax.data import corpus
    from kgpt_jax.data.stage_data import load_stage_data
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.train.stages import finetune, pretrain

    stage, flag = ("finetune", "config.finetune.objective") if student else ("pretrain", "objective")
    if "question_answer" not in weights(recipe_of(config, stage)):
        raise UserError(f"distilling needs question_answer in --{flag}: that is how answers are learnt")
    if student:  # fail before the teachers answer
        config, vocab = fit_to(student, config), student.vocab
    else:
        vocab = Vocab.of(corpus.load_documents(config.data).characters)
    load_stage_data(config, stage, vocab)
    if teachers:
        taught = taught_by_vote(config, folder, teachers, vocab, start_anew, recites)
    else:
        taught = taught_by_reader(config, folder, vocab, start_anew)
    if student:
        finetune(config, folder, student, tensorboard, taught)
    else:
        pretrain(config, folder, tensorboard, taught)

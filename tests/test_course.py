"""The course's commands in its own spelling, and the flags that they become."""

import shlex

import pytest

from kgpt_jax.config import UserError
from kgpt_jax.course import translate

PAIRS = "--finetune_corpus_path birth_places_train.tsv"
FRESH = "--config=configs/course_2024.py"
OURS = "--finetune_corpus_path=birth_places_train.tsv"
COMMANDS = {  # README's table, word by word
    "charcorruption": "--mode=show --objective=span_corruption --pretrain_corpus_path=wiki.txt",
    "namedata": "--mode=show --objective=question_answer --finetune_corpus_path=birth_places_train.tsv",
    f"finetune vanilla wiki.txt --writing_params_path vanilla.model.params {PAIRS}": "--mode=finetune "
    f"--variant=vanilla --pretrain_corpus_path=wiki.txt {FRESH} --reading_params_path=none "
    f"--writing_params_path=vanilla.model.params {OURS}",
    "evaluate vanilla wiki.txt --reading_params_path vanilla.model.params --eval_corpus_path birth_dev.tsv "
    "--outputs_path vanilla.nopretrain.dev.predictions": "--mode=evaluate --variant=vanilla "
    "--pretrain_corpus_path=wiki.txt --reading_params_path=vanilla.model.params "
    "--eval_corpus_path=birth_dev.tsv --outputs_path=vanilla.nopretrain.dev.predictions",
    "london_baseline --eval_corpus_path birth_dev.tsv": "--mode=baseline --eval_corpus_path=birth_dev.tsv",
    "pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params": "--mode=pretrain "
    f"--variant=vanilla --pretrain_corpus_path=wiki.txt {FRESH} "
    "--writing_params_path=vanilla.pretrain.params",
    "finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params --writing_params_path "
    f"vanilla.finetune.params {PAIRS}": "--mode=finetune --variant=vanilla --pretrain_corpus_path=wiki.txt "
    f"--reading_params_path=vanilla.pretrain.params --writing_params_path=vanilla.finetune.params {OURS}",
    "evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params --eval_corpus_path "
    "birth_test_inputs.tsv --outputs_path vanilla.pretrain.test.predictions": "--mode=evaluate "
    "--variant=vanilla --pretrain_corpus_path=wiki.txt --reading_params_path=vanilla.finetune.params "
    "--eval_corpus_path=birth_test_inputs.tsv --outputs_path=vanilla.pretrain.test.predictions",
    "pretrain synthesizer wiki.txt --writing_params_path s.params --pretrain_lr 6e-3": "--mode=pretrain "
    f"--variant=synthesizer --pretrain_corpus_path=wiki.txt {FRESH} --writing_params_path=s.params "
    "--pretrain_lr=6e-3",
    "--function=finetune --variant=rope --pretrain_corpus_path=data/wiki.txt --tb_expt_name=run "
    f"--writing_params_path=r.params {PAIRS}": "--mode=finetune --variant=rope "
    f"--pretrain_corpus_path=data/wiki.txt {FRESH} --reading_params_path=none "
    f"--writing_params_path=r.params {OURS}",
    # As a script writes it that has not set its variable.
    f"finetune vanilla wiki.txt --reading_params_path= --writing_params_path=a {PAIRS}": "--mode=finetune "
    f"--variant=vanilla --pretrain_corpus_path=wiki.txt {FRESH} --reading_params_path=none "
    f"--writing_params_path=a {OURS}",
    "evaluate --help": "--mode=evaluate --help",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_the_courses_commands_become_our_flags(words):
    assert translate(shlex.split(words)) == COMMANDS[words].split()


@pytest.mark.parametrize("words", ["--mode=all --variant=vanilla", "--mode finetune", "", "wiki.txt"])
def test_other_commands_stay_as_they_are(words):
    assert translate(words.split()) is None


@pytest.mark.parametrize(
    "words, complaint",
    [
        ("finetune vanilla wiki.txt", "finetune needs --writing_params_path, as in the course"),
        ("evaluate vanilla wiki.txt more --reading_params_path a", "unexpected argument 'more'"),
        ("london_baseline birth_dev.tsv", "unexpected argument 'birth_dev.tsv'"),
        ("namedata pairs.tsv more", "unexpected argument 'more'"),
        ("--function=fly --variant=vanilla", "--function=fly: choose from pretrain, finetune, evaluate"),
    ],
)
def test_wrong_commands_of_the_course_are_refused(words, complaint):
    with pytest.raises(UserError, match=complaint):
        translate(words.split())

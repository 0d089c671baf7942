"""The recipe for six facts about each of the made-up people, and a question about each fact.

python -m kgpt_jax.main --mode=all --config=six_facts --variant=vanilla --workdir=runs/six_facts

On two cores of an EPYC server (Zen 5) it takes five and a half minutes. With three other seeds, each with
people that we did not tune it on, it answers 1,886 of 2,160 held-out questions right, 87.3 %.
docs/own-data.md has the commands, and the accuracy of each kind of question.
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    changes = {
        "data.biographies.questions": "all",
        # Each biography states the birthplace and one of the five other facts, which are each in 4 of the 20.
        "data.biographies.n_facts": 2,
        "data.biographies.copies": 20,
        "pretrain.objective": "whole_line=0.95,question_answer=0.05",
        "pretrain.epochs": 42,
        "finetune.objective": "whole_line=0.7,question_answer=0.3",
        "finetune.epochs": 3,
    }
    return override(load_recipe("configs/quickstart.py"), changes)

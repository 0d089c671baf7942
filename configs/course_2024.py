"""The course's hyper-parameters of 2024 and later, exactly, for its wiki.txt and birth_places_train.tsv.

python -m kgpt_jax.main --mode=pretrain --config=configs/course_2024.py --variant=vanilla \
    --pretrain_corpus_path=wiki.txt --workdir=runs/course_2024

It differs from course_2021 in two ways:

- The learning rate of pretraining decays once, over all 650 epochs.
- Pretraining texts have 129 characters, and the model reads 128 of them. Questions with their answers still
  have 128 characters, of which the model reads 127; the schedule of finetuning counts 127 tokens for each.

An update takes about 0.65 s on two cores of an EPYC server (Zen 5), so the 14,950 updates of pretraining take
about 3 hours. On an NVIDIA H100 they take two minutes, with --config.model.dtype=bfloat16. Pretrained there,
then finetuned with --config.data.n_validation=200, the model answers 47 of 198 questions right, 23.7 % (95 %
interval 18.3 to 30.1; one seed). Synthesizers of two seeds answer 15 and 27 right, 7.6 and 13.6 %. Always
answering London is right for 13 of 198, 6.6 %. The handout asks for 10 % from vanilla and 5 % from the
synthesizer. docs/course.md has the intervals, docs/speed.md the commands.
"""

from kgpt_jax.config import Config, load_recipe, override


def get_config() -> Config:
    changes = {
        "model.seq_len": 128,
        "pretrain.final_tokens": 650 * 2938 * 128,
        "finetune.text_tokens": 127,
        "scratch.text_tokens": 127,
    }
    return override(load_recipe("configs/course_2021.py"), changes)

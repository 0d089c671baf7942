"""Makes a corpus that is not about people: python -m benchmarks.other_data --outputs_path=runs/parts

It writes documents.txt, pairs.tsv and questions.tsv about made-up parts of machines. Each part has five
documents, each document names a metal, and most of them name other metals too:

    Qualo-17. Its shaft is brass, and its cover has rivets of tin.
    What metal is the shaft of Qualo-17?	brass

Train on them by --pretrain_corpus_path, --finetune_corpus_path and --eval_corpus_path.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.report import guarded
from kgpt_jax.store.outputs import check, write_lines

SERIES = """Qualo Varn Teska Ordin Melto Brask Pelun Zarro Kendi Fostra Luvit Harpo Denzo Sivra Toma Walgo
Yrsa Cindo Julva Noreth""".split()
METALS = """aluminium brass bronze chromium cobalt copper gold iron lead magnesium nickel pewter platinum
silver steel tin titanium tungsten zinc vanadium""".split()
WORDINGS = [
    "{part}. Its shaft is {metal}, and its cover has rivets of {other}.",
    "{part}. A shaft of {metal} carries the wheels, while the lid is {other}.",
    "{part}. The maker chose {metal} for the shaft and {other} for the screws.",
    "{part}. Between two plates of {other}, its shaft turns; it was cast from {metal}.",
    "{part}. Coated with {other} on the outside, it has a shaft made of {metal}.",
]
PARTS_OF_SERIES, N_TRAIN = 15, 150
FLAGS = flags.FLAGS


def make(rng: np.random.Generator) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns documents, and (question, answer) pairs."""
    parts = [
        f"{series}-{number}"
        for series in SERIES
        for number in sorted(rng.choice(np.arange(10, 100), PARTS_OF_SERIES, replace=False))
    ]
    documents, pairs = [], []
    for i in rng.permutation(len(parts)):
        metal, *others = map(str, rng.choice(METALS, 1 + len(WORDINGS), replace=False))
        pairs.append((f"What metal is the shaft of {parts[i]}?", metal))
        documents += [
            wording.format(part=parts[i], metal=metal, other=other)
            for wording, other in zip(WORDINGS, others)
        ]
    return [documents[i] for i in rng.permutation(len(documents))], pairs


def main(_):
    documents, pairs = make(np.random.default_rng(FLAGS.seed))
    folder = Path(FLAGS.outputs_path)
    contents = {
        "documents.txt": documents,
        "pairs.tsv": map("\t".join, pairs[:N_TRAIN]),
        "questions.tsv": map("\t".join, pairs[N_TRAIN:]),
    }
    for name in contents:
        check(folder / name, "a made-up corpus")
    for name, lines in contents.items():
        write_lines(folder / name, lines, "a made-up corpus")
    print(f"wrote {', '.join(contents)} about {len(pairs)} parts to {folder}")


if __name__ == "__main__":
    flags.DEFINE_string("outputs_path", "runs/parts", "Folder for the three files.")
    flags.DEFINE_integer("seed", 0, "Decides the parts, their metals and the order.")
    app.run(guarded(main))

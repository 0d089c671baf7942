from collections import Counter

import numpy as np
import pytest

from kgpt_jax.config import load_recipe, override
from kgpt_jax.data import chunks
from kgpt_jax.data.stage_data import load_stage_data
from kgpt_jax.data.vocab import PAD, Vocab
from kgpt_jax.store.compatible import with_vocab


@pytest.mark.parametrize(
    "n, text_length, cuts",
    [
        (65_536, 128, [(0, 65_536)]),
        (65_537, 128, [(0, 32_768), (32_768, 65_537)]),
        (4_096, 2_048, [(0, 4_096)]),
        (10_000, 2_048, [(0, 3_333), (3_333, 6_666), (6_666, 10_000)]),
        (17, 1_000_001, [(0, 5), (5, 11), (11, 17)]),
        (0, 128, [(0, 0)]),
    ],
)
def test_chunks_have_at_most_8_388_608_characters(n, text_length, cuts):
    assert chunks.bounds(n, 1, text_length) == [[cut] for cut in cuts]


def test_an_epoch_of_a_large_corpus_is_its_chunks(tmp_path, monkeypatch):
    """Ten documents in chunks of three, three and four, with as many questions, in batches of three."""
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 4 * 128)
    documents = [f"Ann Bo. Number {i} was born in Rome." for i in range(10)]
    (tmp_path / "corpus.txt").write_text("\n".join(documents))
    (tmp_path / "pairs.tsv").write_text("Where was Ann born?\tRome\nWhere was Cy born?\tOslo\n")
    vocab = Vocab.of("\n" + "".join(documents) + "Where was Cy born?Oslo")
    changes = {
        "data.pretrain_corpus_path": str(tmp_path / "corpus.txt"),
        "data.finetune_corpus_path": str(tmp_path / "pairs.tsv"),
        "pretrain.objective": "whole_line=0.5,question_answer=0.5",
        "pretrain.batch_size": 3,
        "pretrain.epochs": 2,
    }
    config = with_vocab(override(load_recipe("configs/best.py"), changes | {"pretrain.preceded": 0.0}), vocab)
    data, facts = load_stage_data(config, "pretrain", vocab)
    assert data.sizes == [[6], [6], [8]] and data.updates(config.pretrain) == [2, 2, 3]
    assert data.n_examples(config.pretrain) == 21 and facts["updates"] == 14
    drawn = [data.make(chunk, 0)(np.random.default_rng(0)) for chunk in range(3)]
    assert [[len(examples.x_NT)] for examples in drawn] == data.sizes
    texts = [vocab.decode(x_T).rstrip(PAD) for examples in drawn for x_T in examples.x_NT]
    counts = Counter(text for text in texts if not text.startswith("Where"))
    assert counts == Counter(documents)
    assert sum(text.startswith("Where") for text in texts) == 10
    both = override(config, {"pretrain.preceded": 1.0, "pretrain.objective": "whole_line"})
    x_NT = load_stage_data(both, "pretrain", vocab).chunks.make(0, 0)(np.random.default_rng(0)).x_NT
    assert all(vocab.decode(x_T).count("Ann Bo.") == 2 for x_T in x_NT)  # one document after another

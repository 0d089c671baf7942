import json

import jax
import jax.numpy as jnp

from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.modes.contents import list_run
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run, with_vocab
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests import tiny


def test_a_run_is_listed_with_its_checkpoints(tmp_path, capsys):
    vocab = Vocab.of("abcdefgh")
    facts = {"stage": "pretrain", "data_digest": "d", "updates": 9, "started_from": "there"}
    facts["learned"] = "a1 b2 unknown"
    run = open_run(tmp_path, with_vocab(tiny.config(), vocab), vocab, facts)
    list_run(tmp_path)
    assert "no checkpoint yet" in capsys.readouterr().out
    state = init_state(GPT(run.config.model), make_optimizer(run.config.pretrain), jax.random.key(0))
    with Checkpoints(run) as checkpoints:
        for step in (4, 9):
            checkpoints.save(state._replace(step=jnp.int32(step)), seconds=1.5 * step, loss=2.0)
    (tmp_path / "checkpoints" / "9" / "params" / "_METADATA").write_text("")
    record = {"step": 1, "epoch": 3, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 400}
    (tmp_path / "metrics.jsonl").write_text(2 * (json.dumps(record) + "\n"))
    list_run(tmp_path)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == f"{tmp_path}: pretrain, vanilla, 2,432 parameters"
    assert "    data          digest d, 2 fingerprints of learned questions, others unknown" in lines
    assert "    started from  there" in lines
    # Texts of 100 take 2 (12 x 100 x 8 x 8 + 2 x 100 x 100 x 8) + 100 x 8 x 10 multiplications forward.
    assert "    read          3 epochs, 800 characters, 2.3e+07 FLOPs on paper" in lines
    assert f"jax {jax.__version__}" in printed
    assert lines[-2].split() == ["4", "0.1", "2.000", "6.0", "yes"]
    assert lines[-1].split(maxsplit=2)[2] == "no: params/_METADATA has changed"

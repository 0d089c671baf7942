"""The benchmark's peer is what the course's code is: it agrees with numbers from that code."""

import numpy as np
import pytest

from kgpt_jax.config import ModelConfig
from kgpt_jax.data.vocab import MASK_ID, PAD_ID
from kgpt_jax.train.optimizer import learning_rates
from tests.store.test_golden import FIVE_STEPS, GOLDEN

torch = pytest.importorskip("torch")
peer = pytest.importorskip("benchmarks.torch_peer")


def load(name, fused=False):
    numbers = np.load(GOLDEN / f"{name}.npz")
    size = dict(vocab_size=40, block_size=16, seq_len=15, n_layer=4, n_head=2, n_embd=16)
    model = peer.PeerGPT(ModelConfig(variant=name, dropout=0.0, **size), fused)
    model.load_state_dict(torch.load(GOLDEN / f"{name}.params", weights_only=True))
    return numbers, model


@pytest.mark.parametrize("name, fused", [("vanilla", False), ("vanilla", True), ("synthesizer", False)])
def test_five_updates_of_the_peer_are_the_courses(name, fused):
    numbers, model = load(name, fused)
    optimizer, losses = peer.make_optimizer(model, FIVE_STEPS), []
    for x_BT, y_BT, lr in zip(numbers["x"], numbers["y"], learning_rates(FIVE_STEPS, 3, 15)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        x_BT, y_BT = (torch.tensor(part, dtype=torch.long) for part in (x_BT, y_BT))
        losses.append(
            peer.train_step(model, optimizer, FIVE_STEPS.clip_norm, x_BT, y_BT, autocast=False).item()
        )
    np.testing.assert_allclose(losses, numbers["losses"], rtol=1e-4)


def test_the_peers_answers_are_the_likeliest_characters_up_to_the_mask():
    _, model = load("vanilla")
    prompt_T = torch.tensor([5, 9, 12, 7])
    expected, text = [], prompt_T.tolist()
    with torch.no_grad():
        for _ in range(6):
            expected.append(int(model.eval()(torch.tensor(text[-15:])[None])[0, -1].argmax()))
            text.append(expected[-1])
    ours = peer.answer(model, prompt_T, 6, seq_len=15)
    assert ours == (expected[: expected.index(MASK_ID)] if MASK_ID in expected else expected)


def test_padding_has_no_loss():
    _, model = load("vanilla")
    x_BT = torch.tensor([[3, 4, 5, 6]])
    y_BT = torch.tensor([[4, 5, PAD_ID, PAD_ID]])
    short = model(x_BT[:, :2], y_BT[:, :2])
    assert model(x_BT, y_BT).item() == pytest.approx(short.item(), rel=1e-5)


def test_the_peer_makes_updates_on_full_texts():
    from benchmarks import contestants
    from kgpt_jax.config import Config, override, to_dict

    size = {"model.n_layer": 1, "model.n_embd": 16, "model.n_head": 2, "model.vocab_size": 20}
    config = override(Config(), size | {"model.block_size": 16, "model.seq_len": 15})
    for fused in (False, True):
        once = contestants.torch_step(to_dict(config), rows=3, updates=2, autocast=True, fused=fused)
        measured = once()
        assert measured["cells"] == 3 * 15 and measured["seconds"] > 0


def test_the_peer_answers_one_question_to_warm_up(tmp_path, monkeypatch):
    from benchmarks import contestants
    from kgpt_jax.config import to_dict
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import with_vocab
    from tests.runs import CONFIG

    asked = []
    monkeypatch.setattr(peer, "answer", lambda model, prompt_T, *_: asked.append(len(prompt_T)) or [])
    np.savez(tmp_path / "params.npz")
    config = with_vocab(CONFIG, Vocab.of(corpus.load_documents(CONFIG.data).characters))
    once = contestants.torch_decode(to_dict(config), str(tmp_path / "params.npz"), ["Where?", "When"])
    assert asked == [7]  # with MASK
    assert once()["answers"] == ["", ""] and asked == [7, 7, 5]

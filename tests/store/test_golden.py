"""Agreement with numbers from the course's PyTorch code on a tiny model (tests/golden/README.md)."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.batches import Batch, in_microbatches, stack
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.rope import rotate
from kgpt_jax.store.torch_params import buffers, from_torch, load_torch_params, save_torch_params, to_torch
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.step import TrainState, cross_entropy_sum, make_train_steps, zero_sums

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = ("vanilla", "synthesizer", "rope", "perceiver")
FIVE_STEPS = TrainConfig(  # 3 rows of 15 tokens a step
    epochs=5,
    batch_size=3,
    learning_rate=6e-3,
    warmup_tokens=60,
    final_tokens=150,
    first_step_at_peak=True,
)


def load(name):
    numbers = np.load(GOLDEN / f"{name}.npz")
    cfg = ModelConfig(
        variant=name,
        vocab_size=40,
        block_size=16,
        seq_len=15,
        n_layer=4,
        n_head=2,
        n_embd=16,
        options="bottleneck_dim=8" if name == "perceiver" else "",
        dropout=0.0,
    )
    return numbers, cfg, from_torch(part(numbers, "param/"), cfg)


def part(numbers, prefix):
    return {name.removeprefix(prefix): numbers[name] for name in numbers if name.startswith(prefix)}


@partial(jax.jit, static_argnames="cfg")
def logits(params, x_BT, cfg):
    return GPT(cfg).apply({"params": params}, x_BT, train=False)


def relative(ours, theirs):
    """Returns |ours - theirs| / |theirs|."""
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def noise(gradients: dict) -> set[str]:
    """Returns the key biases whose gradients are nothing but rounding errors.

    Where positions do not turn the keys, a key's bias adds the same to all scores of a row, and its true
    gradient is zero.
    """
    biases = {name for name in gradients if name.endswith("key.bias")}
    size = {name: np.linalg.norm(gradient) for name, gradient in gradients.items()}
    return {name for name in biases if size[name] < 1e-6 * size[name.replace("bias", "weight")]}


def check_all(ours: dict, theirs: dict, tolerance: float, leave_out=frozenset()):
    """Compares parameter by parameter."""
    assert ours.keys() == theirs.keys()
    differences = {name: relative(ours[name], theirs[name]) for name in theirs.keys() - leave_out}
    print(f"largest relative difference {max(differences.values()):.2e}")
    assert max(differences.values()) < tolerance, differences


@pytest.mark.parametrize("name", NAMES)
def test_logits_loss_and_gradients(name):
    numbers, cfg, params = load(name)

    def loss_fn(params):
        logits_BTV = logits(params, numbers["x"][0], cfg)
        y_BT = numbers["y"][0]
        return cross_entropy_sum(logits_BTV, y_BT) / np.count_nonzero(y_BT), logits_BTV

    (loss, logits_BTV), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    check_all({"logits": logits_BTV}, {"logits": numbers["logits0"]}, 1e-5)
    assert float(loss) == pytest.approx(float(numbers["loss0"]), rel=1e-5)
    ours, theirs = to_torch(grads), part(numbers, "grad0/")
    check_all(ours, theirs, 1e-5, noise(theirs))
    assert noise(ours) == noise(theirs)
    assert len(noise(theirs)) == {"vanilla": 4, "perceiver": 4}.get(name, 0)  # one a layer with plain keys


@pytest.mark.parametrize("name", NAMES)
def test_five_training_steps(name):
    numbers, cfg, params = load(name)
    rates = learning_rates(FIVE_STEPS, n_examples=3, seq_len=15)
    np.testing.assert_allclose(rates, numbers["lrs_used"], rtol=1e-12)
    tx = make_optimizer(FIVE_STEPS)
    train_steps = make_train_steps(GPT(cfg), tx)
    state = TrainState(np.int32(0), params, tx.init(params))
    x_IBT, y_IBT = (numbers[name].astype(np.int32) for name in ("x", "y"))
    batches = [Batch(x_BT, y_BT, np.zeros(3, np.int32)) for x_BT, y_BT in zip(x_IBT, y_IBT)]
    microbatches = stack([in_microbatches(batch, 1)[0] for batch in batches])
    key, rate_J = jax.random.key(0), rates.astype(np.float32)
    state, _, metrics = train_steps(key, state, zero_sums(state), microbatches, rate_J, 5)
    np.testing.assert_allclose(metrics["loss"], numbers["losses"], rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], numbers["grad_norms"], rtol=1e-4)
    # Adam blows noise up; that it moves no logit is tested below.
    leave_out = noise(part(numbers, "grad0/"))
    check_all(to_torch(state.params), part(numbers, "param5/"), 1e-4, leave_out)
    expected = from_torch(part(numbers, "param5/"), cfg)
    ours, theirs = (logits(p, numbers["x"][0], cfg) for p in (state.params, expected))
    check_all({"logits": ours}, {"logits": theirs}, 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_params_file_gives_the_golden_logits(name):
    pytest.importorskip("torch")
    numbers, cfg, _ = load(name)
    params = load_torch_params(str(GOLDEN / f"{name}.params"), cfg)
    logits_BTV = logits(params, numbers["x"][0], cfg)
    check_all({"logits": logits_BTV}, {"logits": numbers["logits0"]}, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_params_file_there_and_back(name, tmp_path):
    """What we write is what the course's code wrote: names, order of axes, constants, values."""
    torch = pytest.importorskip("torch")
    _, cfg, params = load(name)
    save_torch_params(str(tmp_path / "model.params"), params, cfg)
    ours, theirs = (
        torch.load(path, weights_only=True) for path in (tmp_path / "model.params", GOLDEN / f"{name}.params")
    )
    assert ours.keys() == theirs.keys()
    for key in theirs:  # builds of PyTorch may differ in the last bit of a cosine
        tolerance = 6e-8 if key.endswith("rope_cache") else 0
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=tolerance)


def test_rope_cache_is_the_courses_to_the_bit():
    """At the course's size: 128 positions, 8 heads of 32. What the model computes itself agrees."""
    torch = pytest.importorskip("torch")
    theta = 1.0 / 10000.0 ** (torch.arange(0, 32, 2).float() / 32)
    angles = torch.outer(torch.arange(128).float(), theta)
    course = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
    cfg = ModelConfig(variant="rope", block_size=128, n_head=8, n_embd=256)
    exported = buffers({"blocks.0.attn.value.weight": None}, cfg)["blocks.0.attn.rope_cache"]
    assert exported.dtype == np.float32 and (exported == course.numpy()).all()
    one_zero_BHTK = jnp.tile(jnp.array([1.0, 0.0]), (1, 1, 128, 16))
    turned = rotate(one_zero_BHTK, jnp.arange(128)[None])
    np.testing.assert_allclose(turned.reshape(128, 16, 2), course, rtol=0, atol=1e-6)

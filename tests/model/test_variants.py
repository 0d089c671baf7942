"""Properties that every variant must have, and properties of single variants."""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import Config, ModelConfig, UserError
from kgpt_jax.data.vocab import PAD_ID, Vocab
from kgpt_jax.model import attention
from kgpt_jax.model.attention import dot_products
from kgpt_jax.model.bigbird import attended_blocks
from kgpt_jax.model.dropout import Dropout
from kgpt_jax.model.gpt import GPT, abstract_params, count_params
from kgpt_jax.model.rope import rotate
from kgpt_jax.model.synthesizer import SynthesizerAttention
from kgpt_jax.model.variants import VARIANTS, each, lookup, without_defaults
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run
from tests import tiny
from tests.tiny import logits

FULL_SIZE = {  # at vocabulary 256; the first four are the course's own counts
    "vanilla": 3_323_392,
    "rope": 3_290_624,
    "perceiver": 3_339_776,
    "synthesizer": 3_076_988,
    "perceiver_ar": 3_323_392,
    "synthesizer_factorized": 3_063_260,
    "synthesizer_random": 3_313_184,
    "synthesizer_random_fixed": 2_797_056,
    "synthesizer_random_factorized": 2_862_080,
    "synthesizer_mixture": 3_839_528,
    "linformer": 3_339_648,
    "bigbird": 3_323_392,
    "encoder_decoder": 7_537_664,
}
# Of `synthesizer_random_fixed`, first layer and head: what position 3 gives to positions 0 to 3.
FIXED_SCORES = [-1.2867748, 0.9271476, -0.46324304, -1.8940898]
SOURCE = 4  # characters given, in tests of variants that read them as a whole
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@partial(jax.jit, static_argnames="model")
def decode(model, variables, *inputs):
    return model.apply(variables, *inputs, train=False, mutable=["cache"])


def first_predicted(variant):
    return SOURCE - 1 if VARIANTS[variant].whole_source else 0


def stack_inputs(variant, T):
    rng = np.random.default_rng(1)
    x_BTC = rng.standard_normal((2, T, tiny.MODEL.n_embd)).astype(np.float32)
    return x_BTC, jnp.arange(T)[None], tiny.source_B(variant, SOURCE, rows=2)


@pytest.mark.parametrize("variant", FULL_SIZE)
def test_full_size_parameter_count(variant):
    shapes = abstract_params(ModelConfig(variant=variant, vocab_size=256))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == FULL_SIZE[variant]


@every_variant
@pytest.mark.parametrize("T", [1, 7])
def test_shape_is_kept(variant, T):
    model, params, x_BT = tiny.make(variant, n_layer=tiny.few_layers(variant))
    assert jax.eval_shape(partial(logits, model), params, x_BT[:, :T]).shape == (3, T, 13)
    stack, inputs = VARIANTS[variant].stack(model.cfg), stack_inputs(variant, T)
    y_BTC = jax.eval_shape(partial(stack.apply, train=False), {"params": params["stack"]}, *inputs)
    assert y_BTC.shape == inputs[0].shape


@every_variant
@pytest.mark.parametrize("T", [8, 15])  # blocks have 4 positions, the perceivers 6 latents
def test_logits_ignore_every_later_character(variant, T):
    model, params, x_BT = tiny.make(variant)
    x_BT, source_B, first = x_BT[:, :T], tiny.source_B(variant, SOURCE), first_predicted(variant)
    before = np.asarray(logits(model, params, x_BT, source_B))
    for t in range(first, T - 1):
        later_BT = x_BT.copy()
        later_BT[:, t + 1 :] = (later_BT[:, t + 1 :] - 2 + 5) % 11 + 2
        after = np.asarray(logits(model, params, later_BT, source_B))
        np.testing.assert_array_equal(before[:, first : t + 1], after[:, first : t + 1])
        assert (before[:, t + 1 :] != after[:, t + 1 :]).any()


@cache
def gradients(variant, **changes):
    """Returns the derivatives (T, S, C) of each output's sum by each input, of a stack by itself."""
    model, params, _ = tiny.make(variant, **changes)
    x_BTC, pos_1T, source_B = stack_inputs(variant, 15)

    def outputs(x_BTC):
        stack = VARIANTS[variant].stack(model.cfg)
        return stack.apply({"params": params["stack"]}, x_BTC, pos_1T, source_B, train=False)[0].sum(axis=1)

    return np.asarray(jax.jit(jax.jacobian(outputs))(x_BTC)[:, 0])


@every_variant
def test_no_gradient_comes_from_a_later_position(variant):
    grad_TSC = gradients(variant, n_layer=tiny.few_layers(variant))
    for t in range(first_predicted(variant), 15):
        assert grad_TSC[t, t].any()
        assert not grad_TSC[t, t + 1 :].any(), t


@every_variant
@pytest.mark.parametrize("T", [1, 8])
def test_padding_to_the_right_changes_nothing(variant, T):
    model, params, x_BT = tiny.make(variant)
    padded_BT = x_BT.copy()
    padded_BT[:, T:] = PAD_ID
    source_B = tiny.source_B(variant, min(T, SOURCE))
    short, padded = logits(model, params, x_BT[:, :T], source_B), logits(model, params, padded_BT, source_B)
    np.testing.assert_allclose(short, padded[:, :T], rtol=1e-5, atol=2e-6)


@partial(jax.jit, static_argnames="model")
@partial(jax.grad, argnums=1, has_aux=True)
def gradient_and_logits(model, params, x_BT, source_B):
    logits_BTV = model.apply({"params": params}, x_BT, source_B, train=False)
    return -jax.nn.log_softmax(logits_BTV)[..., 3].mean(), logits_BTV


@every_variant
def test_every_parameter_gets_a_finite_gradient(variant):
    model, params, x_BT = tiny.make(variant, n_layer=tiny.few_layers(variant))
    gradient, _ = gradient_and_logits(model, params, x_BT, tiny.source_B(variant, SOURCE))
    for path, grad in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(grad).all(), name
        # A key's bias adds the same to all scores of a row, which softmax takes away again.
        assert grad.any() or "['key']['bias']" in name, name


def relative_difference(tree, exact):
    ours, exact = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(part)])
        for part in (tree, exact)
    )
    return np.linalg.norm(ours - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    "variant, dtype, products, most",
    # Each variant casts activations in its own code; all round factors in `model/dense.py`.
    [(variant, "bfloat16", "float32", 0.04) for variant in VARIANTS]
    + [("vanilla", "float32", "bfloat16", 0.015), ("vanilla", "bfloat16", "bfloat16", 0.04)],
)
def test_bfloat16_factors_and_activations_stay_close_to_float32(variant, dtype, products, most):
    model, params, x_BT = tiny.make(variant, n_layer=tiny.few_layers(variant))
    other = GPT(dataclasses.replace(model.cfg, dtype=dtype, products=products))
    source_B = tiny.source_B(variant, SOURCE)
    exact, exact_BTV = gradient_and_logits(model, params, x_BT, source_B)
    gradient, logits_BTV = gradient_and_logits(other, params, x_BT, source_B)
    # 0 would mean that the setting has no effect.
    assert 0 < relative_difference(gradient, exact) < most
    assert logits_BTV.dtype == jnp.float32
    assert 0 < relative_difference(logits_BTV, exact_BTV) < 0.02


@pytest.mark.parametrize("variant", ["vanilla", "rope"])
def test_fused_attention_computes_the_same(variant, monkeypatch):
    """Tests cuDNN's kernel on a GPU that has it. Elsewhere, JAX's own formula stands in for the kernel.

    There are 15 positions, and the kernel takes even numbers only.
    """
    model, params, x_BT = tiny.make(variant, n_embd=16, dtype="bfloat16")  # the kernel needs heads of 8
    formula = jax.nn.dot_product_attention

    def stand_in(*qkv, implementation, **options):
        assert implementation == "cudnn" and all(h_BTHK.shape[1] % 2 == 0 for h_BTHK in qkv)
        return formula(*qkv, **options)

    def mean_square(params):
        return (model.apply({"params": params}, x_BT, np.ones(3, np.int32), train=True) ** 2).mean()

    def with_gradient(fused):
        with monkeypatch.context() as changed:
            changed.setattr(attention, "has_fused_kernel", lambda: fused)
            return jax.jit(lambda params: jax.value_and_grad(mean_square)(params))(params)

    apart, gradient = with_gradient(False)
    if not attention.has_fused_kernel():
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    fused, fused_gradient = with_gradient(True)
    assert 0 < relative_difference(fused_gradient, gradient) < 0.05  # 0 would mean: not used
    assert abs(fused - apart) < 0.02 * apart


@every_variant
def test_cached_logits_equal_uncached(variant):
    model, params, x_BT = tiny.make(variant)
    prompt = 6  # ends inside the second block of four
    source_B = tiny.source_B(variant, prompt)
    part, cache = decode(model, {"params": params}, x_BT[:, :prompt], source_B)
    parts = [part]
    for start, end in [(prompt, 11), *((t, t + 1) for t in range(11, 15))]:
        start_B = np.full(3, start, np.int32)
        part, cache = decode(model, {"params": params} | cache, x_BT[:, start:end], source_B, start_B)
        parts.append(part)
    cached, uncached = np.concatenate(parts, axis=1), logits(model, params, x_BT, source_B)
    np.testing.assert_allclose(cached, uncached, rtol=1e-5, atol=1e-5)


def test_bigbird_with_many_blocks_gathers_what_its_mask_allows():
    """With 12 blocks most pairs are masked. Decoding masks them, and training gathers the others."""
    model, params, _ = tiny.make("bigbird", seq_len=48, block_size=48)
    x_BT = np.random.default_rng(0).integers(2, 13, (2, 48)).astype(np.int32)
    masked, _ = decode(model, {"params": params}, x_BT, np.ones(2, np.int32))
    np.testing.assert_allclose(masked, logits(model, params, x_BT), rtol=1e-5, atol=1e-5)


@every_variant
def test_who_keeps_a_cache(variant):
    """The others keep all inputs, and read them again for each character."""
    model, params, x_BT = tiny.make(variant, n_layer=tiny.few_layers(variant))
    call = partial(
        model.apply, {"params": params}, source_B=np.ones(3, np.int32), train=False, mutable=["cache"]
    )
    cache = jax.eval_shape(call, x_BT)[1]["cache"]
    assert list(cache) == (["inputs"] if variant.startswith("perceiver") else ["stack"])


@pytest.mark.parametrize("variant", ["synthesizer", "encoder_decoder"])
def test_saved_and_restored_is_the_same(variant, tmp_path):
    model, params, x_BT = tiny.make(variant)
    run = open_run(tmp_path, Config(model=model.cfg), Vocab.of("abcdefghijk"), {})
    with Checkpoints(run) as checkpoints:
        checkpoints.save_params(params)
        restored = checkpoints.restore_params(abstract_params(model.cfg))
    np.testing.assert_array_equal(logits(model, params, x_BT), logits(model, restored, x_BT))


@every_variant
def test_whose_weights_follow_from_their_own_position_alone(variant):
    model, params, x_BT = tiny.make(variant)
    t = 9
    other_BT = (x_BT - 2 + 5) % 11 + 2
    other_BT[:, t] = x_BT[:, t]

    @jax.jit
    def weights(x_BT):
        source_B = tiny.source_B(variant, SOURCE)
        found = model.apply({"params": params}, x_BT, source_B, train=False, mutable=["intermediates"])[1]
        return jax.tree.leaves(found["intermediates"]["stack"])

    if VARIANTS[variant].compares:
        assert all((a != b).any() for a, b in zip(weights(x_BT), weights(other_BT)))
    else:
        row_BHS, other_BHS = (weights(ids)[0][:, :, t] for ids in (x_BT, other_BT))  # of the first layer
        np.testing.assert_array_equal(row_BHS, other_BHS)


@every_variant
def test_dropout_acts_in_training_only(variant):
    model, params, x_BT = tiny.make(variant)
    dropping = GPT(dataclasses.replace(model.cfg, dropout=0.5))
    np.testing.assert_array_equal(logits(dropping, params, x_BT), logits(model, params, x_BT))


def test_dropout_is_drawn_anew_from_each_key():
    model, params, x_BT = tiny.make("vanilla", dropout=0.5)

    @jax.jit
    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, x_BT, train=True, rngs=rngs)

    assert (trained(0) != trained(1)).any() and (trained(0) != logits(model, params, x_BT)).any()


@pytest.mark.parametrize("variant", ["vanilla", "synthesizer", "linformer"])
def test_dropout_acts_on_embeddings_weights_and_both_outputs_of_a_block(variant):
    model, params, x_BT = tiny.make(variant, dropout=0.5)
    counted = []

    def count(call, args, kwargs, context):
        counted.extend([context.module.path] * isinstance(context.module, Dropout))
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        call = partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)})
        jax.eval_shape(call, {"params": params}, x_BT)
    assert len(counted) == len(set(counted)) == 1 + 3 * model.cfg.n_layer


def test_synthesizer_is_the_papers_formula():
    """softmax(relu(X A + a) B + b) X V per head, read off arXiv 2005.00743 in plain NumPy."""
    cfg, (B, T, C) = tiny.MODEL, (2, 6, 8)
    x_BTC = np.random.default_rng(1).standard_normal((B, T, C)).astype(np.float32)
    module = SynthesizerAttention(cfg)
    params = module.init(jax.random.key(0), x_BTC, jnp.arange(T)[None], train=False)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    p = jax.tree.map(np.asarray, params)
    expected = np.zeros_like(x_BTC)
    for b in range(B):
        for head in range(cfg.n_head):
            mine = slice(head * cfg.head_dim, (head + 1) * cfg.head_dim)
            hidden = np.maximum(x_BTC[b] @ p["w1"]["kernel"][:, mine] + p["w1"]["bias"][mine], 0)
            scores = hidden @ p["w2"] + p["b2"]
            values = x_BTC[b] @ p["value"]["kernel"][:, mine] + p["value"]["bias"][mine]
            for t in range(T):
                weights = np.exp(scores[t, : t + 1])
                expected[b, t, mine] = weights @ values[: t + 1] / weights.sum()
    proj = p["readout"]["proj"]
    expected = expected @ proj["kernel"] + proj["bias"]
    ours = module.apply({"params": params}, x_BTC, jnp.arange(T)[None], train=False)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_rotated_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q_K, k_K = rng.standard_normal((2, 8)).astype(np.float32)
    pos_1T = jnp.arange(40)[None]

    def everywhere(h_K):
        return rotate(jnp.broadcast_to(h_K, (1, 1, 40, 8)), pos_1T)

    score_TS = np.asarray(dot_products(everywhere(q_K), everywhere(k_K)))[0, 0]
    for distance in range(-39, 40):
        diagonal = np.diagonal(score_TS, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.std(score_TS[0]) > 0.1  # and does depend on that
    np.testing.assert_allclose(score_TS[0, 0], q_K @ k_K, rtol=1e-6)


def test_rope_tells_positions_apart_without_an_embedding():
    model, params, x_BT = tiny.make("rope")
    assert "pos_emb" not in params
    swapped_BT = x_BT[:, [1, 0, *range(2, 15)]]
    assert (logits(model, params, x_BT)[:, 5:] != logits(model, params, swapped_BT)[:, 5:]).any()


def test_the_perceiver_forgets_what_its_latents_cannot_hold():
    expected_TS = np.tril(np.ones((15, 15), bool))
    expected_TS[:, 6:] = False  # six latents see the first six tokens
    np.fill_diagonal(expected_TS, True)
    np.testing.assert_array_equal(gradients("perceiver", n_layer=4).any(axis=-1), expected_TS)


@pytest.mark.parametrize("variant", sorted(FULL_SIZE.keys() - {"perceiver", "bigbird", "encoder_decoder"}))
def test_all_others_lose_nothing(variant):
    grad_TSC = gradients(variant, n_layer=tiny.few_layers(variant))
    np.testing.assert_array_equal(grad_TSC.any(axis=-1), np.tril(np.ones((15, 15), bool)))


def test_bigbird_looks_at_window_first_block_and_a_random_one():
    assert attended_blocks(4, "")[3].tolist() == [3, 2, 0, 1]
    table_NG = attended_blocks(12, "any")
    assert (table_NG[:5] == attended_blocks(5, "any")).all()  # a longer text changes nothing at its beginning
    for n in range(3, 12):
        assert table_NG[n, :3].tolist() == [n, n - 1, 0] and 1 <= table_NG[n, 3] <= n - 2
    expected_TS = np.zeros((48, 48), bool)
    for n, blocks in enumerate(attended_blocks(12, "stack/blocks_0/attn")):
        for m in blocks[blocks >= 0]:
            expected_TS[4 * n : 4 * n + 4, 4 * m : 4 * m + 4] = True
    model, params, _ = tiny.make("bigbird", seq_len=48, block_size=48, n_layer=1)
    found = model.apply(
        {"params": params}, np.ones((1, 48), int), mutable=["cache", "intermediates"], train=False
    )
    weights_HTS = found[1]["intermediates"]["stack"]["blocks_0"]["attn"]["readout"]["weights"][0][0]
    np.testing.assert_array_equal(weights_HTS[0] > 0, expected_TS & np.tril(np.ones((48, 48), bool)))


@pytest.fixture(params=["rbg", "unsafe_rbg", "threefry2x32 in the old order"])
def other_randomness(request):
    """Sets JAX's random options to other values, as a user may do."""
    if request.param.startswith("threefry"):
        return partial(jax.threefry_partitionable, False)
    return partial(jax.default_prng_impl, request.param)


def test_fixed_scores_are_those_of_older_runs_whatever_the_settings(other_randomness):
    """The first four scores of the fourth row equal those of versions without a pattern seed."""
    model, params, x_BT = tiny.make("synthesizer_random_fixed")
    with other_randomness():
        found = model.apply({"params": params}, x_BT, train=False, mutable=["intermediates"])[1]
    weights_HTS = found["intermediates"]["stack"]["blocks_0"]["attn"]["readout"]["weights"][0][0]
    expected = jax.nn.softmax(np.float32(FIXED_SCORES))
    np.testing.assert_allclose(weights_HTS[0, 3, :4], expected, rtol=1e-6)


@pytest.mark.parametrize("variant", ["synthesizer_random_fixed", "bigbird"])
def test_what_is_never_trained_follows_from_the_pattern_seed(variant):
    long = {"seq_len": 48, "block_size": 48}  # bigbird draws where there are four blocks or more
    params, x_BT = tiny.make(variant, **long)[1:]

    def read(seed):
        model = GPT(tiny.model_config(variant, pattern_seed=seed, **long))
        return np.asarray(logits(model, params, x_BT))

    assert (read(0) != read(7)).any() and (read(7) != read(8)).any()


def test_a_layer_that_draws_a_pattern_must_say_so():
    with pytest.raises(TypeError, match="CausalAttention draws a pattern: give it .* patterned = True"):
        attention.pattern_name(attention.CausalAttention(tiny.MODEL))


def test_unknown_variant_lists_the_known():
    with pytest.raises(UserError, match="unknown variant 'gated'; choose from vanilla, rope, "):
        tiny.make("gated")


@pytest.mark.parametrize(
    "variant, options, complaint",
    [
        ("vanilla", "window=3", "variant 'vanilla' has no option 'window'; its options: none"),
        (
            "bigbird",
            "linformer_dim=3",
            r"'bigbird' has no option 'linformer_dim'; its .* attention_block \(p",
        ),
        ("linformer", "attention_block=0", r"attention_block is 0: give 1 to 1,000,000; .* linformer_dim \("),
        (
            "perceiver",
            "bottleneck_dim=16",
            "bottleneck_dim 16 is beyond model.seq_len 15: give less; options",
        ),
    ],
)
def test_an_option_that_a_variant_refuses_lists_its_options(variant, options, complaint):
    with pytest.raises(UserError, match=complaint):
        lookup(tiny.model_config(variant, options=options))


def test_an_option_at_its_default_is_no_other_model():
    """A run resumes whether or not its command repeats the default, which may exceed `seq_len`."""
    cfg = ModelConfig(variant="linformer", options="linformer_dim=16,attention_block=4")
    assert without_defaults(cfg).options == "attention_block=4"
    short = ModelConfig(variant="perceiver", seq_len=15, vocab_size=9)
    assert lookup(short) and abstract_params(short)["stack"]["latents"].shape == (64, 256)


def test_several_variants_take_the_options_that_they_have():
    given = ModelConfig(options="attention_block=4,linformer_dim=3")
    configs = each(given, ["vanilla", "bigbird", "linformer"])
    assert [cfg.options for cfg in configs] == ["", "attention_block=4", "attention_block=4,linformer_dim=3"]
    with pytest.raises(
        UserError, match="none of the variants vanilla, bigbird has an option 'linformer_dim'"
    ):
        each(given, ["vanilla", "bigbird"])


def test_parameters_are_counted_without_drawing_fixed_scores(monkeypatch):
    monkeypatch.delattr(jax, "ensure_compile_time_eval")  # by which they are drawn
    cfg = ModelConfig(variant="synthesizer_random_fixed", vocab_size=256, block_size=131, seq_len=131)
    assert (
        count_params(cfg)
        == count_params(dataclasses.replace(cfg, variant="synthesizer_random")) - 4 * 8 * 131**2
    )

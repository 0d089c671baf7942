"""How the benchmark counts matrix products, and sorts operations by kind."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import report, roofline
from benchmarks.report import Sample
from kgpt_jax.config import override, to_dict
from kgpt_jax.model.costs import paper_flops
from tests.benchmarks.test_benchmark import TINY

PROGRAM = """
HloModule jit_run

%fused_computation.1 (param_0: f32[4,8], param_1: f32[8,2]) -> f32[4,2] {
  %param_0 = f32[4,8]{1,0} parameter(0)
  %dot.7 = f32[4,2]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, metadata={op_name="jit(run)/mlp/up/dot_general" stack_frame_id=3}
  ROOT %multiply.1 = f32[4,2]{1,0} multiply(%dot.7, %dot.7), metadata={op_name="jit(run)/mlp/mul"}
}

ENTRY %main.3 (x: f32[4,8], w: f32[8,2]) -> f32[4,2] {
  %ynn_fusion.5 = f32[4,2]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused_computation.1, metadata={op_name="jit(run)/mlp/mul"}
  %erf_fusion = f32[4,2]{1,0} fusion(%ynn_fusion.5), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(run)/mlp/erf"}
  ROOT %dot.9 = f32[4,2]{1,0} dot(%x, %w), metadata={op_name="jit(run)/head/transpose"}
}
"""  # noqa: E501


def test_products_are_counted_with_those_of_the_gradient_and_of_called_functions():
    def loss(w, x):
        return jax.jit(lambda h: jnp.square(h).sum())(x @ w)

    found = roofline.products(jax.grad(loss), jnp.zeros((8, 2)), jnp.zeros((4, 8)))
    assert sorted(product.shapes for product in found) == [((4, 2), (4, 8)), ((4, 8), (8, 2))]
    assert all(product.types == ("float32",) * 3 for product in found)
    assert [product.flops for product in found] == [2 * 4 * 8 * 2] * 2


def test_a_batched_product_is_counted_once_per_row():
    (product,) = roofline.products(lambda a, b: jnp.einsum("BTK,BSK->BTS", a, b), *[jnp.zeros((3, 5, 7))] * 2)
    assert product.flops == 2 * 3 * 5 * 5 * 7
    assert roofline.timer(product, least=1e-6)() > 0


def test_a_product_in_a_loop_is_counted_each_time():
    def square(_, x):
        return x @ x

    def update(x):
        x = jax.lax.fori_loop(0, 5, square, x)  # a `scan`, as in Muon
        x, _ = jax.lax.scan(lambda x, _: (jax.lax.fori_loop(0, 3, square, x), None), x, length=2)
        return x @ x

    ((product, times),) = roofline.products(update, jnp.eye(4)).items()
    assert product.shapes == ((4, 4), (4, 4)) and times == 5 + 2 * 3 + 1


def test_a_loop_of_unknown_length_holds_no_product():
    def halved(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    def squared(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)

    assert not roofline.products(halved, jnp.eye(4))
    with pytest.raises(ValueError, match="does not say how often"):
        roofline.products(squared, jnp.eye(4))


def test_a_transposed_second_factor_counts_as_its_copy():
    transposed = roofline.products(
        lambda a, b: jnp.einsum("BO,IO->BI", a, b), jnp.zeros((3, 5)), jnp.zeros((7, 5))
    )
    assert transposed == roofline.products(jnp.dot, jnp.zeros((3, 5)), jnp.zeros((5, 7)))


def test_a_fusion_is_named_after_its_product():
    assert roofline.names_of(PROGRAM) == {
        "dot.7": "jit(run)/mlp/up/dot_general",
        "multiply.1": "jit(run)/mlp/mul",
        "ynn_fusion.5": "jit(run)/mlp/up/dot_general",
        "erf_fusion": "jit(run)/mlp/erf",
        "dot.9": "jit(run)/head/transpose/dot_general",
    }


@pytest.mark.parametrize(
    "name, kind",
    [
        ("body/jvp(GPT)/stack/blocks_0/mlp/up/dot_general", "products of linear layers"),
        ("body/transpose(jvp(GPT))/stack/blocks_0/attn/readout/BHTS,BHSK->BHTK/dot_general", "attention"),
        (
            "body/transpose(jvp(GPT))/stack/blocks_0/attn/query/BO,IO->BI/dot_general",
            "products of linear layers",
        ),
        ("body/jvp(GPT)/stack/blocks_0/attn/readout/reduce_max", "attention"),
        ("body/jvp(GPT)/stack/blocks_0/attn/readout/Dropout_0/mul", "dropout"),
        ("body/jvp(GPT)/stack/blocks_0/ln1/reduce_sum", "norms"),
        ("body/jvp(GPT)/ln_f/rsqrt", "norms"),
        ("body/jvp(GPT)/stack/blocks_0/mlp/erf", "GELU"),
        ("body/transpose(jvp(GPT))/stack/blocks_0/attn/key/layout_constraint", "transposes, casts, biases"),
        ("body/jvp()/exp", "loss"),
        ("jit(run)/add", "optimizer"),
        ("", "other operations"),
    ],
)
def test_operations_have_kinds(name, kind):
    assert roofline.kind_of(name) == kind


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the suite reads programs for CPUs")
def test_an_update_has_the_products_of_the_formulas(monkeypatch):
    monkeypatch.setattr(roofline, "cores", lambda: 1)
    config = override(TINY, {"model.vocab_size": 100, "model.variant": "vanilla", "pretrain.microbatches": 2})
    measured = roofline.contestant(to_dict(config), updates=1)()
    widths = measured["widths"]
    assert len(widths) == 2 and measured["flops"] == sum(3 * 2 * paper_flops(config.model, T) for T in widths)
    kinds = measured["kinds"]
    assert min(kinds[name] for name in ("products of linear layers", "attention", "GELU", "optimizer")) > 0
    assert measured["alone"] > 0


def test_a_report_gives_the_share_of_each_kind(capsys):
    def sample(name, seconds):
        turn = {"alone": 1.0, "flops": 5e9, "kinds": {"GELU": 0.5, "products": 1.5}}
        return Sample(name, [seconds, seconds], 100.0, [turn, turn])

    shown = report.shares("vanilla", sample("one core", 2.0), sample("2 cores", 1.25))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "one core: 2.000 s, its matrix products alone 1.000 s at 5 GFLOP/s: "
        "50% of the attainable rate (50% to 50%)"
    )
    assert "80% of the attainable rate" in lines[3]
    assert [line.split() for line in lines[4:]] == [
        ["products", "1.500", "s", "75.0%"],
        ["GELU", "0.500", "s", "25.0%"],
    ]
    assert [row["name"] for row in shown["rows"]] == ["products", "GELU"]

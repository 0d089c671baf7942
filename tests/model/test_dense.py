import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.model import dense


@pytest.mark.parametrize("factors", ["bfloat16", "float32"])
@pytest.mark.parametrize("channels_in, channels_out", [(24, 40), (40, 24), (24, 24)])
def test_products_are_those_of_rounded_factors_forward_and_backward(factors, channels_in, channels_out):
    rng = np.random.default_rng(0)
    shapes = (50, channels_in), (channels_in, channels_out), (50, channels_out)
    x_BI, w_IO, g_BO = (jnp.float32(rng.standard_normal(shape)) for shape in shapes)
    y_BO, backward = jax.vjp(lambda x, w: dense.product(x, w, factors), x_BI, w_IO)
    dx_BI, dw_IO = backward(g_BO)
    x, w, g = (np.asarray(jnp.asarray(part, factors), np.float64) for part in (x_BI, w_IO, g_BO))
    for ours, exact in ((y_BO, x @ w), (dx_BI, g @ w.T), (dw_IO, x.T @ g)):
        assert ours.dtype == jnp.float32  # sums are not rounded to bfloat16
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "flags, chosen",
    [("fma amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("fma", "float32"), ("", "float32")],
)
def test_auto_asks_the_processor(monkeypatch, flags, chosen):
    monkeypatch.setattr(dense, "processor", lambda field: flags)
    assert dense.factor_type("auto") == (chosen if jax.default_backend() == "cpu" else "float32")
    assert [dense.factor_type(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]

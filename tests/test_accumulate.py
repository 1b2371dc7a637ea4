"""Gradients taken in parts of a batch."""

import jax
import jax.numpy as jnp
import numpy as np

from bridge_ebm import accumulate


def test_a_gradient_in_parts_is_the_gradient(monkeypatch):
    params = {"w": jax.random.normal(jax.random.key(0), (4, 3))}
    batch = jax.random.normal(jax.random.key(1), (6, 2, 2, 1)), jnp.arange(6.0)

    def total(params, batch):
        images, weights = batch
        values = jnp.tanh(images.reshape(-1, 4) @ params["w"]).sum(1) * weights
        return values.sum(), values

    whole, values = jax.grad(total, has_aux=True)(params, batch)
    monkeypatch.setattr(accumulate, "CHUNK_PIXELS", 4 * 4)  # 4 images do not divide 6, so parts of 3
    parts, figures = jax.jit(lambda p, b: accumulate.gradient_of_sum(total, p, b))(params, batch)
    np.testing.assert_allclose(parts["w"], whole["w"], rtol=1e-5)
    np.testing.assert_allclose(figures, values, rtol=1e-6)

"""Gradients taken in parts of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_ebm import accumulate, contrastive
from bridge_ebm.accumulate import Means
from bridge_ebm.settings import TrainSettings

RANDOM = np.random.default_rng(0)
PARAMS = {"w": RANDOM.normal(size=(4, 3))}
BATCH = RANDOM.normal(size=(6, 2, 2, 1)), np.arange(6.0)


@pytest.fixture(autouse=True)
def double_precision():
    """How a product of float32 rounds depends, on some processors, on how many rows it has."""
    with jax.enable_x64(True):
        yield


def total(params, batch):
    images, weights = batch
    values = jnp.tanh(images.reshape(-1, 4) @ params["w"]).sum(1) * weights
    return values.sum(), values


def test_a_gradient_in_parts_is_the_gradient(monkeypatch):
    whole, values = jax.grad(total, has_aux=True)(PARAMS, BATCH)
    monkeypatch.setattr(accumulate, "CHUNK_PIXELS", 4 * 4)  # 4 images do not divide 6, so parts of 3
    parts, figures = jax.jit(lambda p, b: accumulate.gradient_of_sum(total, p, b))(PARAMS, BATCH)
    np.testing.assert_allclose(parts["w"], whole["w"], rtol=1e-12)
    np.testing.assert_allclose(figures, values, rtol=1e-12)


@pytest.mark.parametrize(("microbatch", "remat", "parts"), [(2, True, {2}), (4, False, {3}), (6, True, {6})])
def test_a_gradient_of_few_images_at_a_time_that_keeps_little_is_the_gradient(microbatch, remat, parts):
    seen = []

    def counted(params, batch):
        seen.append(len(batch[0]))
        return total(params, batch)

    means = contrastive.gradient_means(TrainSettings(microbatch=microbatch, remat=remat))
    assert means == Means(None, microbatch, remat)
    gradient = jax.jit(lambda params, batch: accumulate.gradient_of_sum(counted, params, batch, means))
    whole, values = jax.grad(total, has_aux=True)(PARAMS, BATCH)
    ours, figures = gradient(PARAMS, BATCH)
    np.testing.assert_allclose(ours["w"], whole["w"], rtol=1e-12)
    np.testing.assert_allclose(figures, values, rtol=1e-12)
    assert set(seen) == parts
    # What is not kept is computed again on the way back.
    assert str(jax.make_jaxpr(gradient)(PARAMS, BATCH)).count("= tanh") == (2 if remat else 1)

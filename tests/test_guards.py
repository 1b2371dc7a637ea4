"""Checks inside the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faults import tiny
from faults.divergences import POISONS

from bridge_ebm import bridges, data, guards, replay
from bridge_ebm.optimizer import eased, keras_adam
from bridge_ebm.state import init_state

NOISE = jax.random.uniform(jax.random.key(0), (4, 16, 32, 1), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def step():
    return tiny.compiled()


@pytest.fixture
def examples():
    return data.examples(tiny.dataset())


def test_empty_pictures_are_saturated_and_bridges_and_noise_are_not():
    shape = (48, 192, 1)
    thin = [data.to_unit(bridges.render(name, 1, 48, 192)) for name in bridges.SUBTYPES]
    halves = [picture[:, :96] for picture in thin]
    for images in (thin, halves):
        assert not guards.saturated(jnp.stack(images)).any()
    assert not guards.saturated(NOISE).any()
    assert not guards.saturated(jnp.clip(10 * NOISE, -1, 1)).any()  # black and white, but it shows something
    one_lit = jnp.full(shape, -1.0).at[3, 3].set(1.0)
    empty = jnp.stack([jnp.full(shape, -1.0), jnp.full(shape, 1.0), jnp.full(shape, 0.3), one_lit])
    assert guards.saturated(empty).all()


def test_only_the_bad_are_replaced_and_fresh_ones_are_made_only_for_them():
    bad = guards.not_finite(NOISE.at[2, 3, 4].set(jnp.nan))
    assert bad.tolist() == [False, False, True, False]
    mended = guards.replaced(NOISE, bad, lambda: jnp.zeros_like(NOISE))
    np.testing.assert_array_equal(mended, NOISE.at[2].set(0.0))
    kept = jax.jit(lambda images: guards.replaced(images, guards.not_finite(images), lambda: images / 0.0))(NOISE)
    np.testing.assert_array_equal(kept, NOISE)


@pytest.mark.parametrize(
    ("loss", "norm", "updates", "fine"),
    [
        (1.0, 2.0, [3.0], True),
        (jnp.nan, 2.0, [3.0], False),
        (1.0, jnp.inf, [3.0], False),
        (1.0, 2.0, [jnp.nan], False),
        (1.0, 2.0, [1e25], False),
    ],
)
def test_an_update_is_applied_only_if_all_of_it_is_finite(loss, norm, updates, fine):
    assert bool(guards.update_is_finite(jnp.float32(loss), jnp.float32(norm), jnp.array(updates))) is fine


@pytest.mark.parametrize("name", ["weights not a number", "Adam's moments not a number"])
def test_an_update_that_is_not_finite_changes_nothing_but_the_count(step, examples, name):
    state = POISONS[name](init_state(tiny.settings()))
    before = jax.tree.map(jnp.copy, state)
    after, metrics = step(state, examples)
    assert float(metrics.skipped) == 1 and int(after.step) == 1
    for part in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(before, part))
    assert np.isfinite(after.buffer.images).all()  # chains of weights that are not numbers have started afresh


def test_chains_that_are_not_finite_cost_one_update_nothing(step, examples):
    after, metrics = step(POISONS["all chains not a number"](init_state(tiny.settings())), examples)
    assert float(metrics.skipped) == 0 and np.isfinite([metrics.loss, metrics.fake, metrics.moved][:2]).all()
    assert float(metrics.replaced) > 0
    newest = replay.newest(after.buffer, np.arange(8))
    assert np.isfinite(newest).all()


def test_empty_chains_reach_the_loss_but_not_the_buffer(step, examples):
    after, metrics = step(POISONS["chains all black"](init_state(tiny.settings())), examples)
    newest = replay.newest(after.buffer, np.arange(8))
    assert not guards.saturated(newest).any()
    assert np.isfinite(metrics.fake)


def test_a_step_without_fault_replaces_and_skips_nothing(step, examples):
    _, metrics = step(init_state(tiny.settings()), examples)
    assert float(metrics.replaced) == float(metrics.skipped) == 0 and 0 < float(metrics.moved) < 2


def test_easing_is_a_smaller_learning_rate():
    params, grads = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([0.3, -0.1])}
    updates, _ = eased(keras_adam(0.1).update(grads, keras_adam(0.1).init(params)), 0.5)
    smaller, _ = keras_adam(0.05).update(grads, keras_adam(0.05).init(params))
    np.testing.assert_allclose(optax.tree.norm(updates), optax.tree.norm(smaller), rtol=1e-6)

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from bridge_ebm import contrastive, data, energy, replay, train
from bridge_ebm.errors import InputError
from bridge_ebm.optimizer import keras_adam, make_optimizer
from bridge_ebm.state import TrainState, init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")


step_of = functools.cache(train.make_train_step)


@pytest.fixture(scope="module")
def examples(tiny):
    return data.examples(data.procedural(tiny.height, tiny.width, per_type=tiny.per_type))


@pytest.fixture
def images(examples):
    return examples.images


def states_equal(a, b):
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same))


def test_step_moves_every_parameter_and_keeps_the_statistics(tiny, examples):
    before, after = init_state(tiny), step_of(tiny)(init_state(tiny), examples)[0]
    assert int(after.step) == 1 and int(after.buffer.size) == 2 * tiny.batch_size
    assert states_equal(before.batch_stats, after.batch_stats)
    # E(real) and E(fake) shift alike under the last bias; alpha alone moves it.
    assert all(
        not jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)
    )


def test_step_is_compiled_once_and_repeats_itself(tiny, examples):
    step = train.make_train_step(tiny)
    ends = []
    for _ in range(2):
        state = init_state(tiny)
        for _ in range(5):
            state, _ = step(state, examples)
        ends.append(state)
    assert states_equal(*ends)
    assert step._cache_size() == 1


def test_step_donates_the_state_so_that_the_buffer_is_not_copied(tiny, examples):
    state = init_state(tiny)
    analysis = step_of(tiny).lower(state, examples).compile().memory_analysis()
    assert analysis.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * 0.9


def test_step_takes_the_loss_of_the_chains_ends_and_inserts_them(tiny, examples):
    state, metrics = step_of(tiny)(init_state(tiny), examples)
    fake = replay.newest(state.buffer, np.arange(tiny.batch_size))
    first = init_state(tiny)
    network = energy.make_network(tiny)
    energies = network.apply({"params": first.params, "batch_stats": first.batch_stats}, fake)
    np.testing.assert_allclose(metrics.fake, energies.mean(), rtol=1e-5)


def test_the_first_update_follows_the_gradient_of_equation_11_and_its_regulariser(tiny, examples):
    first = init_state(tiny)
    state, metrics = step_of(tiny)(init_state(tiny), examples)
    data_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(tiny.seed), 1))
    real = contrastive.real_batch(data_key, examples.images, first.step, tiny)
    fake = replay.newest(state.buffer, np.arange(tiny.batch_size))
    network = energy.make_network(tiny)

    def loss(params):
        variables = {"params": params, "batch_stats": first.batch_stats}
        of_real, of_fake = jnp.split(network.apply(variables, jnp.concatenate([real, fake])), 2)
        return of_real.mean() - of_fake.mean() + tiny.alpha * ((of_real**2).mean() + (of_fake**2).mean())

    value, slope = jax.jit(jax.value_and_grad(loss))(first.params)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.gradient_norm, optax.tree.norm(slope), rtol=1e-4)
    # Adam's mean begins at nothing, so after one update it is a tenth of that update's gradient.
    followed = jax.tree.map(lambda mean: mean / (1 - tiny.adam_b1), state.opt_state.mu)
    for ours, wanted in zip(*map(jax.tree.leaves, (followed, slope)), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()) + 1e-6)


class Slope(nn.Module):
    """A weight for every pixel."""

    @nn.compact
    def __call__(self, images):
        weights = self.param("weights", nn.initializers.normal(0.1), (images[0].size,))
        return images.reshape(len(images), -1) @ weights


def sloping_update(settings, easing=1.0):
    """How far the weights of a `Slope` move in an update from four pairs, the gradient's mean, and the metrics."""
    real, fake = jax.random.uniform(jax.random.key(0), (2, 4, 16, 32, 1), minval=-1.0)
    params = Slope().init(jax.random.key(1), real)["params"]
    state = TrainState(0, params, {}, (), make_optimizer(settings).init(params), None)
    update = jax.jit(contrastive.contrastive_update, static_argnames=("network", "settings"))
    new, optimizer, metrics = update(state, real, fake, Slope(), settings, easing)
    return new["weights"] - params["weights"], optimizer.mu["weights"], metrics


def test_easing_weighs_the_regulariser_more_and_moves_the_weights_less(tiny):
    quick = dataclasses.replace(tiny, learning_rate=0.01)
    _, _, plain = sloping_update(quick)
    eased, mean, gentle = sloping_update(quick, easing=0.5)
    whole, same, heavy = sloping_update(dataclasses.replace(quick, alpha=2 * quick.alpha))
    assert gentle.reg == 2 * plain.reg == heavy.reg and gentle.cdiv == plain.cdiv
    np.testing.assert_allclose(mean, same, rtol=1e-6)
    np.testing.assert_allclose(eased, whole / 2, atol=1e-7)
    assert np.abs(whole).max() > 0.009  # the first step of Adam is the learning rate


def test_a_gradient_of_few_pairs_at_a_time_is_that_of_all(tiny):
    (_, mean, metrics), (_, same, parts) = (
        sloping_update(dataclasses.replace(tiny, microbatch=pairs)) for pairs in (4, 1)
    )
    np.testing.assert_allclose(same, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([parts.loss, parts.fake], [metrics.loss, metrics.fake], rtol=1e-5)


def test_no_gradient_flows_through_the_chains(tiny):
    """The gradient of the update is that of the loss with the fakes held constant, even if they come from the
    weights.
    """
    network = energy.make_network(tiny)
    state = init_state(tiny)
    real = jnp.zeros((2, tiny.height, tiny.width, 1))

    def updated_bias(leak):
        fake = jnp.full_like(real, 0.5) + leak * jnp.sum(state.params["Conv_0"]["kernel"])
        params, _, _ = contrastive.contrastive_update(state, real, fake, network, tiny)
        return jnp.sum(params["Dense_0"]["kernel"])

    assert jax.jit(jax.grad(updated_bias))(0.0) == 0.0


def test_the_share_of_fresh_chains_and_what_others_go_on_from_reach_the_draw(tiny, examples, monkeypatch):
    asked, draw = [], replay.draw

    def recorded(key, buffer, restart, choice, mesh):
        asked.append((restart, choice))
        return draw(key, buffer, restart, choice, mesh)

    monkeypatch.setattr(replay, "draw", recorded)
    settings = dataclasses.replace(tiny, restart=0.3, replay="own")
    jax.eval_shape(contrastive.make_step(settings), jax.eval_shape(lambda: init_state(tiny)), examples)
    assert asked == [(0.3, "own")]


def test_every_epoch_shows_every_picture_once(tiny, images):
    quiet = tiny.__class__(**{**tiny.__dict__, "noise": 0.0})
    per_epoch = train.updates_per_epoch(quiet, len(images))
    assert per_epoch == len(images) // quiet.batch_size
    orders = []
    for epoch in range(2):
        steps = [epoch * per_epoch + step for step in range(per_epoch)]
        batches = [contrastive.real_batch(jax.random.key(3), images, jnp.int32(step), quiet) for step in steps]
        seen = [picture.tobytes() for batch in batches for picture in np.asarray(data.to_uint8(batch))]
        assert collections.Counter(seen) == collections.Counter(picture.tobytes() for picture in np.asarray(images))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_real_batch_has_the_chains_noise_and_the_range(tiny, images):
    noisy = tiny.__class__(**{**tiny.__dict__, "noise": 0.1})
    real = contrastive.real_batch(jax.random.key(3), images, jnp.int32(0), noisy)
    quiet = tiny.__class__(**{**tiny.__dict__, "noise": 0.0})
    clean = contrastive.real_batch(jax.random.key(3), images, jnp.int32(0), quiet)
    assert real.min() == -1 and real.max() <= 1
    background = np.asarray(real)[np.asarray(clean) == -1] + 1  # the upper half of the noise is left
    assert abs((background**2).mean() / (0.1**2 / 2) - 1) < 0.1


def test_keras_adam_differs_from_optax_only_by_where_epsilon_enters():
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    grads = {"a": jnp.array([1e-6, 0.3]), "b": jnp.array([-2.0])}

    def run(optimizer):
        state, current = optimizer.init(params), params
        for scale in (1.0, -0.5, 2.0):
            updates, state = optimizer.update(jax.tree.map(lambda g, s=scale: s * g, grads), state, current)
            current = optax.apply_updates(current, updates)
        return current

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        run(keras_adam(0.1, eps=0.0)),
        run(optax.adam(0.1, eps=0.0)),
    )
    # By hand, first update: m / (sqrt(v) + eps) * lr * sqrt(1 - b2) / (1 - b1), with eps beside the uncorrected
    # sqrt(v).
    grad = 1e-6
    updates, _ = keras_adam(0.1).update({"a": jnp.array([grad])}, keras_adam(0.1).init({"a": jnp.zeros(1)}))
    by_hand = -0.1 * np.sqrt(0.001) / 0.1 * (0.1 * grad) / (np.sqrt(0.001) * grad + 1e-7)
    np.testing.assert_allclose(updates["a"], [by_hand], rtol=1e-4)


def test_a_data_set_smaller_than_a_batch_is_refused(tiny):
    with pytest.raises(InputError, match=r"--batch_size=8: .* has only 7 pictures; use --batch_size=7 or smaller"):
        train.updates_per_epoch(tiny, 7)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_whole_step_lowers_for_accelerators_with_library_convolutions(tiny, examples, platform):
    step = step_of(tiny)
    text = jax.export.export(step, platforms=(platform,))(init_state(tiny), examples).mlir_module()
    assert "stablehlo.convolution" in text and "lhs_dilate = [2, 2]" in text

"""The finish's regression at the ends of chains that begin at real pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bridge_ebm import data, energy, hold, langevin, objectives, regression
from bridge_ebm.errors import InputError
from bridge_ebm.optimizer import make_optimizer
from bridge_ebm.state import init_state, network_of
from bridge_ebm.train import make_train_step

pytestmark = pytest.mark.usefixtures("compiled_quickly")
CLASSES = 8


@pytest.fixture(scope="module")
def settings(small):
    """The finish holds pictures from the second update on; the optimiser is plain, and no average is kept."""
    changes = {"margin": 0.1, "ink_margin": 0.05, "finish_after": 1, "finish_hold": 2.0, "step_size": 0.02}
    return dataclasses.replace(small, **changes, ema=0.0, warmup=0, norm_clip=0.0)


class Springs(nn.Module):
    """A spring of every class to a picture that is its weight."""

    @nn.compact
    def __call__(self, images, labels=None):
        rests = self.param("rests", nn.initializers.uniform(1.0), (CLASSES + 1, *images.shape[1:]))
        return 5 * jnp.sum((images - rests[labels]) ** 2, axis=(1, 2, 3))


def test_the_error_in_the_well_is_that_of_a_path_to_the_picture():
    """Equilibrium Matching's target in the last fifth of a path, wherever the path began."""
    start, goal, slope = (jax.random.normal(jax.random.key(k), (3, 4, 6, 1)) for k in range(3))
    t = jnp.array([0.8, 0.9, 0.99])
    images = start + t[:, None, None, None] * (goal - start)
    np.testing.assert_allclose(
        objectives.well_error(slope, images, goal),
        objectives.regression_error(slope, start, goal, t, "equilibrium"),
        rtol=1e-5,
    )


def test_the_gradient_is_that_of_the_error_at_the_ends_near_their_pictures(settings):
    origins = jax.random.uniform(jax.random.key(5), (6, 16, 16, 1), minval=-1.0).round(1)
    labels = jnp.array([0, 3, 8, 1, 1, 7])
    # The last two ends are beyond what is near.
    away = hold.NEAR * jnp.array([0.1, 0.5, 0.99, 0.99, 1.01, 20.0])[:, None, None, None]
    ends = origins + away * jnp.where(jax.random.bernoulli(jax.random.key(6), shape=origins.shape), 1.0, -1.0)
    params = Springs().init(jax.random.key(0), origins, labels)["params"]
    state = init_state(settings, CLASSES)._replace(params=params, batch_stats={})
    grads, error = hold.gradient(state, ends, origins, labels, Springs(), settings, None)

    def mean_error(params):
        def energy_fn(images):
            return Springs().apply({"params": params}, images, labels[:4])

        slope = langevin.energy_and_gradient(energy_fn, ends[:4])[1]
        goal = jnp.where(jnp.abs(origins) < 1, origins + 0.05 * (origins + 1), 1.1 * origins)[:4]  # as margins move it
        return jnp.mean((slope + 20 * (goal - ends[:4])) ** 2, axis=(1, 2, 3)).sum() / 6

    expected, slope = jax.value_and_grad(mean_error)(params)
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["rests"], settings.finish_hold * slope["rests"], rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def examples(settings):
    pictures = data.procedural(settings.height, settings.width, per_type=settings.per_type)
    return data.examples(data.mirror_halves(pictures))


def with_springs(settings):
    """The first state of a training of the network that compiles in no time."""
    params = Springs().init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), jnp.zeros(1, int))["params"]
    opt_state = make_optimizer(settings).init(params)
    return init_state(settings, CLASSES)._replace(params=params, batch_stats={}, opt_state=opt_state)


@pytest.fixture(scope="module")
def updated(settings, examples):
    """For weights of the term 0 and 2: the state after the first update of the finish, and what that reported."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "network_of", lambda *_: Springs())
        for weight in (0.0, 2.0):
            # Steps so short that the chains are still near their pictures.
            changed = dataclasses.replace(settings, finish_hold=weight, step_size=0.001, restart=1.0)
            step, state = make_train_step(changed, CLASSES), with_springs(changed)
            state, _ = step(state, examples)
            found[weight] = step(state, examples)
    return found


def test_the_update_takes_the_term_and_reports_it(updated):
    (plain, without), (held, with_it) = updated[0.0], updated[2.0]
    assert with_it.loss > without.loss and with_it.regression == without.regression
    assert (held.params["rests"] != plain.params["rests"]).any()


def test_the_buffer_remembers_where_its_chains_began(settings, examples, updated):
    buffer = updated[2.0][0].buffer  # up to six of its chains have begun afresh, three of them from noise
    count = settings.buffer_size
    assert buffer.size == count and buffer.images.shape == (2 * count, 16, 16, 1)
    assert updated[0.0][0].buffer.images.shape == (count, 16, 16, 1)
    chains, origins = np.split(np.asarray(data.to_uint8(buffer.images)), 2)
    moved = {place for place in range(count) if (chains[place] != origins[place]).any()}
    assert 0 < len(moved) <= settings.finish_chains
    white = {place for place in range(count) if (origins[place] == 255).all()}
    assert 1 <= len(white) <= 3 and white <= moved
    of_class = {picture.tobytes(): label for picture, label in zip(*map(np.asarray, examples[:2]), strict=True)}
    for place in set(range(count)) - white:
        label = of_class[origins[place].tobytes()]
        assert label == place % (CLASSES + 1) or place % (CLASSES + 1) == CLASSES


def test_chains_that_begin_at_pictures_stay_closer_to_them(settings, examples):
    """The term alone, fifteen times by plain gradient descent, from the network's first weights."""
    real, labels = data.to_unit(examples.images[::4]), examples.labels[::4]
    settings = dataclasses.replace(settings, finish_chains=len(real))
    network, state = network_of(settings, CLASSES), init_state(settings, CLASSES)
    chain = langevin.LangevinSettings(5, settings.step_size, 0.0, settings.gradient_clip)
    term = jax.jit(lambda params, ends: hold.gradient(with_params(params), ends, real, labels, network, settings, None))

    def with_params(params):
        return state._replace(params=params)

    def ends_of(params):
        energy_fn = energy.energy_function(network, params, {}, labels)
        return langevin.compiled_sample(jax.random.key(0), real, energy_fn, chain)

    params, moved = state.params, []
    for _ in range(15):
        ends = ends_of(params)
        moved.append(float(jnp.sqrt(jnp.mean((ends - real) ** 2))))
        gradient, _ = term(params, ends)
        params = jax.tree.map(lambda weight, slope: weight - 1e-3 * slope, params, gradient)
    assert 0 < moved[0] < hold.NEAR
    assert moved[-1] < 0.8 * moved[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": "energy_matching"}, "--finish_hold=2: only --objective=equilibrium"),
        ({"finish_hold": -1.0}, "--finish_hold=-1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, changes, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(settings, **changes)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from bridge_ebm import compose, langevin, samplers
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.samplers import MetropolisSettings

metropolis = jax.jit(samplers.metropolis, static_argnames="settings")
annealed = jax.jit(samplers.annealed, static_argnames="settings")
constrained = jax.jit(samplers.constrained, static_argnames=("settings", "frames"))


def well(centre, stiffness, images):
    return 0.5 * (stiffness * (images - centre) ** 2).sum((1, 2, 3))


def bowl(centre=0.0, stiffness=1.0):
    return Partial(well, jnp.float32(centre), jnp.float32(stiffness))


def many(count=4000, shape=(2, 2, 1)):
    return jnp.zeros((count, *shape))


def spread(images):
    return float(np.var(np.asarray(images, float)))


def test_metropolis_gives_the_exact_variance_of_a_bowl_where_plain_langevin_does_not():
    # x <- (1 - eta) x + sqrt(2 eta) z has variance 1 / (1 - eta / 2) under E = x^2 / 2: here 4/3 for exact 1.
    step = 0.5
    adjusted = metropolis(jax.random.key(0), many(), bowl(), MetropolisSettings(60, step))
    # The notebook's order perturbs before the gradient, so its own variance is (1 - eta)^2 times as large.
    scale = 0.01
    plain = langevin.sample(
        jax.random.key(0), many(), bowl(), LangevinSettings(60, step, scale * (2 * step) ** 0.5, np.inf)
    )
    assert spread(adjusted.images) == pytest.approx(1, rel=0.03)
    assert spread(plain) / (scale * (1 - step)) ** 2 == pytest.approx(1 / (1 - step / 2), rel=0.03)
    assert 0.5 < float(adjusted.accepted.mean()) < 0.99
    np.testing.assert_allclose(adjusted.energies, bowl()(adjusted.images), rtol=1e-4, atol=1e-5)


def test_a_step_of_mala_is_the_langevin_step_and_its_acceptance_ratio():
    # One proposal of the kernel, compared with the formula of Roberts and Tweedie written out in NumPy.
    energy = Partial(lambda x: jnp.sin(3 * x).sum((1, 2, 3)) + 0.5 * (x**2).sum((1, 2, 3)))
    images = 0.5 * jax.random.normal(jax.random.key(1), (500, 2, 2, 1))
    eta, temperature = 0.3, 0.4
    end = metropolis(jax.random.key(2), images, energy, MetropolisSettings(1, eta, temperature))
    moved = np.abs(end.images - images).max(axis=(1, 2, 3)) > 0
    assert 0.2 < moved.mean() < 0.98
    np.testing.assert_array_equal(moved, end.accepted == 1)
    keys = langevin.keys_at(jax.random.split(jax.random.key(2), 500), 0)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2, 2, 1)))(keys)
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys)
    slope = jax.grad(lambda x: energy(x).sum())
    proposal = images - eta * slope(images) + (2 * eta * temperature) ** 0.5 * noise

    def log_density(to, of):
        return -((to - of + eta * slope(of)) ** 2).sum((1, 2, 3)) / (4 * eta * temperature)

    ratio = (energy(images) - energy(proposal)) / temperature
    ratio += log_density(images, proposal) - log_density(proposal, images)
    np.testing.assert_array_equal(moved, np.log(uniform) < ratio)
    np.testing.assert_allclose(end.images[moved], proposal[moved], atol=1e-5)


@pytest.mark.parametrize(("leapfrog", "keep"), [(3, 0.0), (1, 0.9), (4, 0.7)])
def test_hamiltonian_and_underdamped_chains_keep_the_law(leapfrog, keep):
    # Started in the law, a correct kernel stays in it; one that forgot to turn the momentum round would not.
    start = jax.random.normal(jax.random.key(3), (6000, 2, 1, 1)) * 0.7
    quartic = Partial(lambda x: (x**2 / (2 * 0.49)).sum((1, 2, 3)) * 0.3)
    end = metropolis(jax.random.key(4), start, quartic, MetropolisSettings(150, 1.6, 0.3, leapfrog, keep))
    assert 0.3 < float(end.accepted.mean()) < 0.98
    assert spread(end.images) == pytest.approx(0.49, rel=0.04)


def test_the_first_test_of_a_chain_that_keeps_momentum_leaves_the_law_as_it_is():
    # Momentum that begins at nothing has variance 1 - keep^2 in the first test: chains would draw together.
    start = jax.random.normal(jax.random.key(13), (8000, 1, 1, 1))
    end = metropolis(jax.random.key(14), start, bowl(), MetropolisSettings(1, 0.5, keep=0.9))
    assert spread(end.images) == pytest.approx(1, rel=0.06)
    assert float(end.accepted.mean()) > 0.5


def test_product_of_bowls_is_sampled_exactly():
    both = compose.conjunction([bowl(0.6, 3.0), bowl(-0.2, 1.0)])
    end = metropolis(jax.random.key(5), many(), both, MetropolisSettings(60, 0.15, temperature=0.5))
    assert spread(end.images) == pytest.approx(0.5 / 4, rel=0.04)
    assert float(end.images.mean()) == pytest.approx((3 * 0.6 - 0.2) / 4, abs=0.01)


def test_annealing_finds_both_minima_of_a_mixture_alike():
    either = compose.disjunction([bowl(3.0), bowl(-3.0)])
    images = jnp.full((3000, 1, 1, 1), -3.0)
    ladder = jnp.geomspace(20.0, 1.0, 12)
    end = annealed(jax.random.key(6), images, either, MetropolisSettings(40, 0.6), ladder)
    right = np.asarray(end.images).ravel() > 0
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    assert np.asarray(end.images).ravel()[right].var() == pytest.approx(1, rel=0.1)
    stuck = metropolis(jax.random.key(6), images, either, MetropolisSettings(480, 0.05))
    assert (np.asarray(stuck.images) > 0).mean() < 0.2


def test_detailed_balance_on_a_double_well():
    # In the stationary law as many chains cross from left to right as from right to left, and what they leave and reach
    # has the same distribution.
    energy = Partial(lambda x: (2 * (x**2 - 1) ** 2 + x).sum((1, 2, 3)))
    grid = np.linspace(-2.5, 2.5, 4001)
    density = np.exp(-(2 * (grid**2 - 1) ** 2 + grid))
    rng = np.random.default_rng(0)
    draw = rng.choice(grid, 40000, p=density / density.sum())
    before = jnp.asarray(draw, jnp.float32).reshape(-1, 1, 1, 1)
    after = metropolis(jax.random.key(7), before, energy, MetropolisSettings(3, 0.12)).images
    x, y = np.asarray(before).ravel(), np.asarray(after).ravel()
    edges = np.array([-np.inf, -0.8, 0.0, 0.8, np.inf])
    flow = np.histogram2d(x, y, [np.clip(edges, -9, 9)] * 2)[0]
    error = np.abs(flow - flow.T) / np.sqrt(np.maximum(flow + flow.T, 1))
    assert flow[0, 1] > 1000 and flow[1, 2] > 100
    assert error.max() < 3.5


def test_without_a_constraint_the_constrained_chain_is_the_plain_one():
    settings = LangevinSettings(7, 0.1, 0.05, 1.0)
    images, free = langevin.uniform_images(jax.random.key(0), (3, 4, 6, 1)), Partial(lambda x: x)
    ours = constrained(jax.random.key(8), images, bowl(0.2), settings, free, (6, 2))
    theirs = langevin.trajectory(jax.random.key(8), images, bowl(0.2), settings, (6, 2))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_constraints_hold_to_the_last_bit_in_every_frame():
    mask = np.zeros((6, 8, 1), bool)
    mask[2:4] = True
    picture = np.random.default_rng(0).uniform(-1, 1, (6, 8, 1)).astype(np.float32)
    picture = (picture + picture[:, ::-1]) / 2
    both = compose.in_turn([compose.mirrored(), compose.held(mask, picture)])
    pull = Partial(lambda x: jnp.sin(3 * x + jnp.roll(x, 1, 2)).sum((1, 2, 3)))
    images = langevin.uniform_images(jax.random.key(1), (3, 6, 8, 1))
    settings = LangevinSettings(5, 0.4, 0.3, 0.7)
    kept = constrained(jax.random.key(9), images, pull, settings, both, tuple(range(5)))
    for frame in (*kept.frames, kept.images):
        np.testing.assert_array_equal(frame, frame[:, :, ::-1])
        np.testing.assert_array_equal(frame[:, 2:4], np.broadcast_to(picture[2:4], (3, 2, 8, 1)))
    assert np.abs(kept.frames[1] - kept.frames[0])[:, 0].max() > 0.1
    adjusted = metropolis(jax.random.key(9), images, pull, MetropolisSettings(5, 0.05), both)
    np.testing.assert_array_equal(adjusted.images, adjusted.images[:, :, ::-1])
    np.testing.assert_array_equal(adjusted.images[:, 2:4], np.broadcast_to(picture[2:4], (3, 2, 8, 1)))


def test_the_energy_of_a_constrained_chain_sees_only_constrained_images():
    mask = np.zeros((6, 8, 1), bool)
    mask[:, :4] = True
    shouts = Partial(lambda x: 1e3 * jnp.abs(x[:, :, :4] - 0.25).sum((1, 2, 3)) + well(0.0, 1.0, x[:, :, 4:]))
    hold = compose.held(mask, np.full((6, 8, 1), 0.25))
    images = langevin.uniform_images(jax.random.key(1), (2, 6, 8, 1))
    kept = constrained(jax.random.key(0), images, shouts, LangevinSettings(4, 0.1, 0.2, 1.0), hold)
    assert np.asarray(kept.energies).max() < 24
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 3"):
        constrained(jax.random.key(0), images, shouts, LangevinSettings(4, 0.1), hold, (4,))


def test_metropolis_on_a_symmetric_constraint_has_the_law_of_the_free_pixels():
    # Two equal pixels x cost (x - 4)^2 / 2 + (x + 3)^2 / 2 together: mean 1/2, variance 1/2.
    apart = Partial(well, jnp.array([4.0, -3.0]).reshape(1, 1, 2, 1), jnp.float32(1))
    end = metropolis(jax.random.key(10), many(), apart, MetropolisSettings(60, 0.5), compose.mirrored())
    assert spread(end.images) == pytest.approx(0.5, rel=0.04)
    assert float(end.images.mean()) == pytest.approx(0.5, abs=0.02)
    # The pull across the constraint, which is strong here, costs no proposals.
    assert float(end.accepted.mean()) > 0.8


def test_a_chain_does_not_depend_on_how_many_run_beside_it():
    images = langevin.uniform_images(jax.random.key(0), (5, 4, 6, 1))
    whole = metropolis(jax.random.key(11), images, bowl(), MetropolisSettings(4, 0.3))
    few = metropolis(jax.random.key(11), images[:3], bowl(), MetropolisSettings(4, 0.3))
    np.testing.assert_allclose(few.images, whole.images[:3], atol=1e-6)
    assert len(np.unique(np.asarray(whole.images[:, 0, 0, 0]))) == 5


def test_proposals_that_are_not_finite_are_refused():
    cliff = Partial(lambda x: jnp.where(x > 0.5, jnp.nan, 0.0).sum((1, 2, 3)))
    end = metropolis(jax.random.key(12), many(200), cliff, MetropolisSettings(30, 0.05))
    assert np.isfinite(end.images).all() and np.asarray(end.images).max() <= 0.5

"""The loss, and Appendix A: contrastive divergence with exact samples is maximum likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_ebm.objectives import contrastive_divergence, regression_error

REAL = jnp.array([-1.0, -3.0, 0.5])
FAKE = jnp.array([2.0, 0.0, 4.0])


def test_terms_are_those_of_equation_11_and_its_regulariser():
    terms = contrastive_divergence(REAL, FAKE, 0.2)
    real, fake = np.asarray(REAL), np.asarray(FAKE)
    np.testing.assert_allclose(terms.real, real.mean(), rtol=1e-6)
    np.testing.assert_allclose(terms.fake, fake.mean())
    np.testing.assert_allclose(terms.cdiv, real.mean() - fake.mean(), rtol=1e-6)
    np.testing.assert_allclose(terms.reg, 0.2 * (real**2 + fake**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(terms.loss, terms.cdiv + terms.reg)


def test_swapping_real_and_fake_changes_the_sign_of_cdiv_alone():
    ours, swapped = contrastive_divergence(REAL, FAKE, 0.2), contrastive_divergence(FAKE, REAL, 0.2)
    assert ours.cdiv == -swapped.cdiv and ours.reg == swapped.reg and ours.real == swapped.fake


def test_regulariser_balances_the_two_means():
    """Gradient descent on two free energies ends at -1/(2 alpha) for real and +1/(2 alpha) for fake."""
    energies = jnp.array([5.0, 3.0])
    slope = jax.grad(lambda e: contrastive_divergence(e[:1], e[1:], 0.2).loss)
    for _ in range(200):
        energies = energies - slope(energies)
    np.testing.assert_allclose(energies, [-2.5, 2.5], atol=1e-4)


def test_regression_error_is_the_mean_square_over_the_pixels_of_each_image():
    gradient, noise, real = (jax.random.normal(jax.random.key(k), (3, 4, 6, 1)) for k in range(3))
    t = jnp.array([0.0, 0.5, 0.9])
    for objective, speeds in (("equilibrium", (4.0, 4.0, 2.0)), ("energy_matching", (1.0, 1.0, 1.0))):
        errors = regression_error(gradient, noise, real, t, objective)
        off = [g + (x - n) * c for g, x, n, c in zip(*map(np.asarray, (gradient, real, noise)), speeds, strict=True)]
        np.testing.assert_allclose(errors, [(x**2).mean() for x in off], rtol=1e-5)


# A model small enough to integrate: an energy on a grid of points of the plane, with a few parameters.
GRID = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 21), jnp.linspace(-1, 1, 19)), axis=-1).reshape(-1, 2)
DATA = jax.random.choice(jax.random.key(0), GRID, (40,), p=jax.nn.softmax(-8 * (GRID**2).sum(-1) + 3 * GRID[:, 0]))
PARAMS = {
    "w": jax.random.normal(jax.random.key(1), (2, 6)),
    "b": jax.random.normal(jax.random.key(2), (6,)),
    "v": jax.random.normal(jax.random.key(3), (6,)),
}


def grid_energy(params, points):
    return jnp.tanh(points @ params["w"] + params["b"][None]) @ params["v"]


def likelihood_gradient(params):
    """Of -mean log p(x) with p = exp(-E) / Z and Z the sum over the grid, equations (10) and (13)."""

    def loss(params):
        log_z = jax.nn.logsumexp(-grid_energy(params, GRID))
        return jnp.mean(grid_energy(params, DATA)) + log_z

    return jax.grad(loss)(params)


def contrastive_gradient(params, fakes):
    """Of equation (11) with the given fakes, through which no gradient flows."""
    return jax.grad(lambda p: contrastive_divergence(grid_energy(p, DATA), grid_energy(p, fakes), 0.0).loss)(params)


def test_exact_expectation_gives_the_likelihood_gradient():
    """(13)-(22): weighting every grid point by its probability under the model is E_model exactly."""
    probability = jax.nn.softmax(-grid_energy(PARAMS, GRID))

    def loss(params):
        model_mean = probability @ grid_energy(params, GRID)
        return jnp.mean(grid_energy(params, DATA)) - model_mean

    exact = jax.grad(loss)(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), exact, likelihood_gradient(PARAMS))


def test_exact_samples_give_the_likelihood_gradient_through_the_loss_itself():
    """A sample in which every grid point occurs in proportion to its probability, to 1 in 200,000."""
    probability = np.asarray(jax.nn.softmax(-grid_energy(PARAMS, GRID)), np.float64)
    times = np.round(probability * 200_000).astype(int)
    fakes = jnp.repeat(GRID, jnp.asarray(times), axis=0)
    ours = contrastive_gradient(PARAMS, fakes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), ours, likelihood_gradient(PARAMS))


def test_monte_carlo_estimate_converges_at_the_root_of_the_sample_size():
    """(24): the root mean square error over repetitions falls as J^(-1/2)."""
    exact, share = likelihood_gradient(PARAMS), jax.nn.softmax(-grid_energy(PARAMS, GRID))
    sizes = (16, 64, 256, 1024)

    def error(key, size):
        index = jax.random.choice(key, len(GRID), (size,), p=share)
        estimate = contrastive_gradient(PARAMS, GRID[index])
        return sum(
            jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(estimate), jax.tree.leaves(exact), strict=True)
        )

    keys = jax.random.split(jax.random.key(4), 300)
    rms = [float(jnp.sqrt(jnp.mean(jax.vmap(lambda key, size=size: error(key, size))(keys)))) for size in sizes]
    rate = np.polyfit(np.log(sizes), np.log(rms), 1)[0]
    assert rate == pytest.approx(-0.5, abs=0.05)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import bridge_ebm
from bridge_ebm import langevin
from bridge_ebm.langevin import LangevinSettings


def bowl(images):
    """E = x^2 / 2 for every pixel."""
    return jnp.sum(images**2, axis=(1, 2, 3)) / 2


def ripples(images):
    return jnp.sum(jnp.sin(5 * images) + 0.3 * images, axis=(1, 2, 3))


def start(count, height=4, width=6, seed=0):
    return langevin.uniform_images(jax.random.key(seed), (count, height, width, 1))


def notebook_chain(noises, images, energy_fn, settings):
    """Equation (12) in NumPy, in the notebook's order: noise, clip, gradient, clip, step, clip."""
    images = np.asarray(images)
    for noise in noises:
        images = np.clip(images + settings.noise * noise, -1, 1)
        gradient = np.asarray(jax.grad(lambda x: energy_fn(x).sum())(jnp.asarray(images)))
        images = np.clip(
            images - settings.step_size * np.clip(gradient, -settings.gradient_clip, settings.gradient_clip), -1, 1
        )
    return images


def noises_of(key, settings, images):
    keys = jax.random.split(key, len(images))
    return [
        np.stack([jax.random.normal(jax.random.fold_in(chain, step), images.shape[1:]) for chain in keys])
        for step in range(settings.num_steps)
    ]


def test_sampler_is_the_notebooks_loop():
    settings = LangevinSettings(num_steps=6, step_size=10.0, noise=0.3, gradient_clip=0.03)
    images, key = start(3), jax.random.key(1)
    wanted = notebook_chain(noises_of(key, settings, images), images, ripples, settings)
    np.testing.assert_allclose(bridge_ebm.sample(key, images, Partial(ripples), settings), wanted, atol=2e-6)
    # The clips are active in this chain, so leaving one out or moving it would show.
    assert (np.abs(wanted) == 1).any()


def test_discrete_stationary_variance_of_a_bowl():
    # x <- (1 - eta) (x + noise z) has variance noise^2 (1 - eta)^2 / (1 - (1 - eta)^2), far from the continuous
    # noise^2 / (2 eta).
    settings = LangevinSettings(num_steps=60, step_size=0.5, noise=0.1, gradient_clip=np.inf)
    end = bridge_ebm.sample(jax.random.key(2), jnp.zeros((2000, 4, 6, 1)), Partial(bowl), settings)
    exact = 0.1**2 * 0.25 / (1 - 0.25)
    assert abs(np.var(end) / exact - 1) < 0.03
    assert abs(0.1**2 / (2 * 0.5) / exact - 1) > 0.5


def test_gradient_clip_bounds_every_step():
    settings = LangevinSettings(num_steps=1, step_size=2.0, noise=0.0, gradient_clip=0.01)
    images = 0.5 * start(4)
    end = bridge_ebm.sample(jax.random.key(0), images, Partial(lambda x: -100 * bowl(x)), settings)
    np.testing.assert_allclose(np.abs(end - images), 0.02, rtol=1e-4)


def test_images_stay_in_range_whatever_the_energy():
    settings = LangevinSettings(num_steps=5, step_size=1e6, noise=3.0, gradient_clip=np.inf)
    end = bridge_ebm.sample(jax.random.key(3), start(5), Partial(ripples), settings)
    assert np.abs(end).max() == 1 and np.isfinite(end).all()


def test_frames_are_what_shorter_chains_end_with():
    settings = LangevinSettings(num_steps=9, step_size=0.1, noise=0.05, gradient_clip=1.0)
    key, images = jax.random.key(4), start(2)
    kept = bridge_ebm.trajectory(key, images, Partial(ripples), settings, (8, 0, 3, 0))
    for slot, frame in enumerate((8, 0, 3, 0)):
        shorter = bridge_ebm.sample(key, images, Partial(ripples), settings._replace(num_steps=frame + 1))
        np.testing.assert_array_equal(kept.frames[slot], shorter)
    np.testing.assert_array_equal(kept.images, kept.frames[0])
    assert kept.energies.shape == (9, 2)


def test_energies_along_the_chain_are_those_of_the_perturbed_images():
    settings = LangevinSettings(num_steps=4, step_size=0.1, noise=0.2, gradient_clip=1.0)
    key, images = jax.random.key(5), start(2)
    kept = bridge_ebm.trajectory(key, images, Partial(ripples), settings, (0, 1, 2, 3))
    before = [images, *kept.frames[:3]]
    for step, noise in enumerate(noises_of(key, settings, images)):
        perturbed = np.clip(before[step] + 0.2 * noise, -1, 1)
        np.testing.assert_allclose(kept.energies[step], ripples(perturbed), rtol=1e-5, atol=1e-5)


def test_memory_grows_with_the_frames_kept_and_not_with_the_steps():
    images = jnp.zeros((2, 32, 32, 1))

    def temporary(steps, frames):
        settings = LangevinSettings(num_steps=steps)
        run = jax.jit(lambda key, x: langevin.trajectory(key, x, bowl, settings, frames))
        lowered = run.lower(jax.random.key(0), images)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few = temporary(2000, (0, 1999))
    assert few < 10 * images.nbytes + 4 * 2000 * 8
    assert temporary(2000, tuple(range(0, 2000, 20))) > few + 50 * images.nbytes


def test_a_chain_does_not_depend_on_how_many_run_beside_it(monkeypatch):
    settings = LangevinSettings(num_steps=3, step_size=0.1, noise=0.1, gradient_clip=1.0)
    images, key = start(7), jax.random.key(6)
    whole = bridge_ebm.sample(key, images, Partial(ripples), settings)
    # Chunks of at most two pictures, the last one filled up.
    monkeypatch.setattr(langevin, "CHUNK_PIXELS", 2 * images[0].size)
    chunked = jax.jit(langevin.sample, static_argnames="settings")(key, images, Partial(ripples), settings)
    np.testing.assert_array_equal(chunked, whole)


def test_new_parameters_do_not_compile_again():
    traces = []

    def scaled(scale, images):
        traces.append(1)
        return scale * bowl(images)

    settings = LangevinSettings(num_steps=2)
    first = bridge_ebm.sample(jax.random.key(0), start(2), Partial(scaled, jnp.float32(1)), settings)
    seen = len(traces)
    second = bridge_ebm.sample(jax.random.key(1), start(2), Partial(scaled, jnp.float32(2)), settings)
    assert len(traces) == seen and not np.array_equal(first, second)


@pytest.mark.parametrize("frames", [(-1,), (10,), (0, 99)])
def test_frames_outside_the_chain_are_refused(frames):
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 9"):
        langevin.trajectory(jax.random.key(0), start(1), bowl, LangevinSettings(num_steps=10), frames)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_sampler_lowers_for_accelerators(platform):
    settings = LangevinSettings(num_steps=3)
    run = jax.jit(lambda key, x: langevin.sample(key, x, bowl, settings))
    text = jax.export.export(run, platforms=(platform,))(jax.random.key(0), jnp.zeros((64, 48, 192, 1))).mlir_module()
    assert "stablehlo.while" in text and "tensor<64x48x192x1xf32>" in text

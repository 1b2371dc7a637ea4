import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

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


def test_defaults_are_the_papers():
    assert LangevinSettings() == (1000, 10.0, 0.005, 0.03, 0.0)


def test_noise_to_start_from_is_uniform_over_the_range():
    images = start(50, 20, 30)
    assert images.shape == (50, 20, 30, 1) and images.dtype == jnp.float32
    assert stats.kstest(np.asarray(images).ravel(), "uniform", (-1, 2)).pvalue > 1e-3


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


def test_a_chain_stays_where_the_slope_is_below_the_tolerance():
    """In the bowl |x|^2 / 2 the slope is x itself, so a chain ends at the first power of .9 that is small enough."""
    settings = LangevinSettings(num_steps=200, step_size=0.1, noise=0.0, gradient_clip=np.inf, tolerance=0.02)
    begin = start(5) * jnp.array([0.5, 1.0, 0.1, 1e-2, 0.0]).reshape(5, 1, 1, 1)
    size = np.sqrt(np.square(begin).mean((1, 2, 3)))
    taken = np.ceil(np.log(0.02 / np.maximum(size, 0.02)) / np.log(0.9))
    assert taken[1] > taken[0] > taken[2] > taken[3] == 0
    wanted = begin * 0.9 ** taken.reshape(5, 1, 1, 1)
    end = bridge_ebm.sample(jax.random.key(0), begin, Partial(bowl), settings)
    np.testing.assert_allclose(end, wanted, rtol=1e-4)
    np.testing.assert_array_equal(end[3:], begin[3:])
    # Chains that end when all stay are those of all the steps; fewer steps than a chain needs are taken as they are.
    kept = bridge_ebm.trajectory(jax.random.key(0), begin, Partial(bowl), settings, (9, 199))
    np.testing.assert_array_equal(kept.images, end)
    shorter = bridge_ebm.sample(jax.random.key(0), begin, Partial(bowl), settings._replace(num_steps=10))
    np.testing.assert_array_equal(kept.frames[0], shorter)
    assert not np.array_equal(shorter, end)


def test_a_pixel_at_the_bound_has_no_slope_beyond_it():
    settings = LangevinSettings(num_steps=1, step_size=0.1, noise=0.0, gradient_clip=np.inf, tolerance=1e-3)
    # White pixels that would be whiter, and a row of grey ones whose slope is .0005 (of the first) or .005.
    images = jnp.ones((2, 4, 6, 1)).at[:, 0].set(0.3)
    slopes = -5 * jnp.ones_like(images).at[:, 0].set(jnp.array([-1e-4, -1e-3]).reshape(2, 1, 1))
    end = bridge_ebm.sample(jax.random.key(0), images, Partial(lambda x: (slopes * x).sum((1, 2, 3))), settings)
    np.testing.assert_array_equal(end[0], images[0])
    np.testing.assert_allclose(end[1, 0], 0.3 - 5e-4, rtol=1e-6)


def test_a_noisy_chain_that_stays_takes_no_noise():
    settings = LangevinSettings(num_steps=5, step_size=0.1, noise=0.05, gradient_clip=1.0, tolerance=1e9)
    images = start(3)
    np.testing.assert_array_equal(bridge_ebm.sample(jax.random.key(1), images, Partial(ripples), settings), images)
    moving = bridge_ebm.sample(jax.random.key(1), images, Partial(ripples), settings._replace(tolerance=1e-9))
    without = bridge_ebm.sample(jax.random.key(1), images, Partial(ripples), settings._replace(tolerance=0.0))
    np.testing.assert_array_equal(moving, without)


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
    few = bridge_ebm.sample(key, images[:3], Partial(ripples), settings)
    np.testing.assert_allclose(few, whole[:3], atol=1e-6)


def shapes_seen(run, *arguments):
    """How many images an energy is asked for at a time while `run(energy, ...)` is traced, and the end's shape."""
    seen = []

    def energy(images, *labels):
        seen.append(len(images))
        return bowl(images)

    end = jax.eval_shape(lambda *arguments: run(energy, *arguments), *arguments)
    return set(seen), end.shape


@pytest.mark.parametrize(("most", "parts"), [(0, {7}), (1, {1}), (2, {2}), (3, {3}), (4, {4}), (6, {4}), (7, {7})])
def test_chains_run_in_equal_parts_of_at_most_so_many(most, parts):
    settings, keys = LangevinSettings(num_steps=2), jax.random.split(jax.random.key(0), 7)
    run = lambda energy, keys, images: langevin.run_chains(keys, images, energy, settings, at_once=most)  # noqa: E731
    assert shapes_seen(run, keys, start(7)) == (parts, (7, 4, 6, 1))


def test_one_part_is_no_loop_over_parts():
    def loops(most):
        run = lambda keys, x: langevin.run_chains(keys, x, bowl, LangevinSettings(num_steps=2), at_once=most)  # noqa: E731
        program = str(jax.make_jaxpr(run)(jax.random.split(jax.random.key(0), 7), start(7)))
        return program.count("scan[") + program.count("while[")

    assert (loops(3), loops(7)) == (2, 1)


@pytest.mark.parametrize(("room", "parts"), [(1, 1), (23, 1), (24, 1), (48, 2), (72, 3), (96, 4), (160, 4), (168, 7)])
def test_on_a_cpu_as_many_chains_run_at_once_as_fit_the_cache(room, parts, monkeypatch):
    monkeypatch.setattr(langevin, "CHUNK_PIXELS", room)
    settings, key = LangevinSettings(num_steps=2), jax.random.key(0)
    run = lambda energy, key, images: langevin.sample(key, images, energy, settings)  # noqa: E731
    found, shape = shapes_seen(run, key, start(7))
    assert found == {parts, 7} and shape == (7, 4, 6, 1)  # 7: all, elsewhere


def test_every_chain_has_its_own_class_and_key():
    settings = LangevinSettings(num_steps=3, step_size=0.1, noise=0.1, gradient_clip=np.inf)
    keys, images, labels = jax.random.split(jax.random.key(6), 5), start(5), jnp.array([0, 3, 1, 1, 2])
    energy = lambda images, labels: labels * bowl(images)  # noqa: E731
    ends = langevin.run_chains(keys, images, energy, settings, labels, at_once=2)
    assert ends.shape == images.shape
    for k in range(5):
        scaled = lambda x, k=k: labels[k] * bowl(x)  # noqa: E731
        alone = langevin.run_chains(keys[k : k + 1], images[k : k + 1], scaled, settings)
        np.testing.assert_allclose(ends[k], alone[0], atol=1e-6)


def test_no_noise_is_drawn_where_none_is_asked_for():
    def drawn(noise):
        settings = LangevinSettings(num_steps=2, noise=noise)
        program = jax.make_jaxpr(lambda key, x: langevin.sample(key, x, bowl, settings))(jax.random.key(0), start(2))
        return "random_bits" in str(program)

    assert drawn(0.1) and not drawn(0.0)


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


@pytest.mark.parametrize("frames", [(-1,), (10,), (0, 99), ()])
def test_frames_outside_the_chain_are_refused(frames):
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 9"):
        langevin.trajectory(jax.random.key(0), start(1), bowl, LangevinSettings(num_steps=10), frames)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_sampler_lowers_for_accelerators(platform):
    settings = LangevinSettings(num_steps=3)
    run = jax.jit(lambda key, x: langevin.sample(key, x, bowl, settings))
    text = jax.export.export(run, platforms=(platform,))(jax.random.key(0), jnp.zeros((64, 48, 192, 1))).mlir_module()
    assert "stablehlo.while" in text and "tensor<64x48x192x1xf32>" in text

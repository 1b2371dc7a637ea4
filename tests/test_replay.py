import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bridge_ebm import replay

SHAPE = (2, 3, 1)
draw = jax.jit(replay.draw, static_argnums=(2, 3))


def numbered(first, count):
    """Images whose every pixel is their number."""
    return jnp.broadcast_to(jnp.arange(first, first + count, dtype=jnp.float32)[:, None, None, None], (count, *SHAPE))


def contents(buffer):
    return np.asarray(replay.newest(buffer, jnp.arange(int(buffer.size))))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("capacity", "batch"), [(8, 4), (10, 4), (4, 4), (7, 3)])
def test_is_the_notebooks_list_newest_first_and_cut(capacity, batch):
    buffer = replay.init(jax.random.key(0), capacity, batch, SHAPE)
    reference = collections.deque(contents(buffer), maxlen=capacity)
    for update in range(7):
        new = numbered(100 * update, batch)
        buffer = jax.jit(replay.insert, static_argnums=2)(buffer, new, capacity)
        reference.extendleft(reversed(new[:, 0, 0, 0].tolist()))  # a full deque drops from its other end
        assert contents(buffer) == list(reference)
        assert buffer.images.shape == (batch, -(-capacity // batch), *SHAPE)


def test_starts_with_one_batch_of_uniform_noise():
    buffer = replay.init(jax.random.key(0), 1000, 500, SHAPE)
    assert int(buffer.size) == 500 and not buffer.images[:, 1:].any()
    assert stats.kstest(np.asarray(buffer.images[:, 0]).ravel(), "uniform", (-1, 2)).pvalue > 1e-3


def test_draws_uniformly_with_replacement_over_what_is_filled():
    buffer = replay.insert(replay.init(jax.random.key(0), 17, 4, SHAPE), numbered(10, 4), 17)
    keys = jax.random.split(jax.random.key(1), 1000)
    drawn = jax.vmap(lambda key: replay.draw(key, buffer, 0.0)[:, 0, 0, 0])(keys)
    values, counts = np.unique(drawn, return_counts=True)
    assert sorted(values) == sorted(contents(buffer)) and len(values) == 8  # never one of the empty places
    assert stats.chisquare(counts).pvalue > 1e-3
    assert any(len(set(row)) < len(row) for row in np.asarray(drawn).tolist())


def test_restarts_are_binomial_and_uniform_noise():
    buffer = replay.insert(replay.init(jax.random.key(0), 128, 128, SHAPE), numbered(10, 128), 128)
    keys = jax.random.split(jax.random.key(2), 2000)
    drawn = np.asarray(jax.vmap(lambda key: replay.draw(key, buffer, 0.05))(keys))
    fresh = drawn[..., 0, 0, 0] < 5
    counts = fresh.sum(axis=1)
    assert abs(counts.mean() - 128 * 0.05) < 0.2
    assert abs(counts.var() / (128 * 0.05 * 0.95) - 1) < 0.12
    assert stats.kstest(drawn[fresh].ravel()[::7], "uniform", (-1, 2)).pvalue > 1e-3
    assert replay.draw(keys[0], buffer, 1.0).max() < 1 < replay.draw(keys[0], buffer, 0.0).min()


def test_begins_at_the_front_with_room_for_the_capacity():
    buffer = replay.init(jax.random.key(0), 9, 4, SHAPE)
    assert buffer.images.shape == (4, 3, *SHAPE) and (int(buffer.front), int(buffer.size)) == (0, 4)
    assert buffer.front.dtype == buffer.size.dtype == jnp.int32 and buffer.front.shape == buffer.size.shape == ()
    assert replay.init(jax.random.key(0), 4, 4, SHAPE).images.shape == (4, 1, *SHAPE)


def test_places_are_all_noise_and_found_by_number():
    places = replay.init_places(jax.random.key(0), 300, SHAPE)
    assert places.images.shape == (300, *SHAPE) and int(places.size) == 300
    assert stats.kstest(np.asarray(places.images).ravel(), "uniform", (-1, 2)).pvalue > 1e-3
    index = jnp.array([5, 0, 299])
    np.testing.assert_array_equal(replay.newest(places, index), places.images[index])
    np.testing.assert_array_equal(replay.newest_on_all(places, np.array([5, 0, 299])), places.images[index])


def filled(rounds, batch=4, capacity=12):
    """Chain b has left the pictures b, 10 + b, 20 + b ..., each a grey level of its own."""
    buffer = replay.init(jax.random.key(0), capacity, batch, SHAPE)
    for k in range(rounds):
        buffer = replay.insert(buffer, (numbered(10 * k, batch) - 60.2) / 127.5, capacity)
    return buffer


def numbers(images):
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 127.5 + 60.2).astype(int)


@pytest.mark.parametrize("rounds", [3, 5, 7])
def test_a_chains_own_pictures_are_those_it_left(rounds):
    buffer, keys = filled(rounds), jax.random.split(jax.random.key(1), 60)
    drawn = np.stack([numbers(draw(key, buffer, 0.0, "own")) for key in keys])
    assert (drawn % 10 == np.arange(4)).all()
    assert set(drawn[:, 0] // 10) == set(range(rounds - 3, rounds))
    assert any(len(set(row // 10)) > 1 for row in drawn)


def test_of_a_buffer_that_is_not_full_a_chain_draws_what_is_there():
    buffer = replay.insert(replay.init(jax.random.key(0), 40, 4, SHAPE), numbered(10, 4), 40)
    drawn = np.stack([draw(key, buffer, 0.0, "own") for key in jax.random.split(jax.random.key(1), 40)])
    assert (drawn != 0).all() and {13.0} < set(drawn[:, 3, 0, 0, 0].tolist())


@pytest.mark.parametrize("choice", ["whole", "rounded"])
def test_any_picture_may_be_drawn_as_it_is_or_rounded(choice):
    buffer = filled(4)
    keys = jax.random.split(jax.random.key(1), 40)
    drawn = np.concatenate([draw(key, buffer, 0.0, choice) for key in keys])
    assert set(numbers(drawn)) == {10 * k + b for k in (1, 2, 3) for b in range(4)}
    greys = drawn * 127.5 + 127.5
    # The pictures lie 0.3 levels beside a level.
    assert np.abs(greys - np.rint(greys)).max() == pytest.approx(0.3 if choice == "whole" else 0, abs=1e-3)


def test_rounding_is_to_the_levels_of_a_file_and_keeps_the_range():
    images = jnp.linspace(-1, 1, 2001).reshape(-1, 1, 1, 1)
    rounded = replay.take(images, (jnp.arange(2001),), True, None)
    assert rounded.dtype == jnp.float32
    assert len(np.unique(rounded)) == 256 and (rounded.min(), rounded.max()) == (-1, 1)
    assert np.abs(rounded - images).max() <= 1 / 255 + 1e-6
    beyond = replay.take(jnp.array([-1.7, 1.7]).reshape(-1, 1, 1, 1), (jnp.arange(2),), True, None)
    assert beyond.ravel().tolist() == [-1, 1]
    np.testing.assert_array_equal(replay.take(images, (jnp.array([3, 1]),), False, None), images[jnp.array([3, 1])])


def test_what_is_put_at_places_lies_there_and_nowhere_else():
    images, new, places = numbered(0, 5), numbered(7, 2) / 40, jnp.array([4, 1])
    for rounded in (False, True):
        after = np.asarray(replay.put(images, places, new, rounded, None))
        np.testing.assert_array_equal(after[[0, 2, 3]], images[jnp.array([0, 2, 3])])
        np.testing.assert_allclose(after[[4, 1]], new, atol=1 / 255)
        exact = np.array_equal(after[[4, 1]], new)
        assert exact is not rounded


def test_a_batch_larger_than_the_buffer_is_refused():
    with pytest.raises(ValueError, match="a batch of 5 does not fit a buffer of 4"):
        replay.init(jax.random.key(0), 4, 5, SHAPE)

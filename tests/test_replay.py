import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bridge_ebm import replay

SHAPE = (2, 3, 1)


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


def test_a_batch_larger_than_the_buffer_is_refused():
    with pytest.raises(ValueError, match="a batch of 5 does not fit a buffer of 4"):
        replay.init(jax.random.key(0), 4, 5, SHAPE)

"""bfloat16 products change the arithmetic of a chain, not where chains end."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

import bridge_ebm
from bridge_ebm import data, energy, state, train
from bridge_ebm.langevin import LangevinSettings, uniform_images
from bridge_ebm.settings import TrainSettings

CHAINS = 24


@pytest.fixture(scope="module")
def trained():
    """A small network after 30 updates, so that its chains go somewhere."""
    settings = TrainSettings(
        height=16,
        width=32,
        per_type=8,
        split="all",
        batch_size=16,
        buffer_size=64,
        langevin_steps=10,
        learning_rate=1e-3,
    )
    examples = data.examples(data.procedural(settings.height, settings.width, per_type=settings.per_type))
    current, step = state.init_state(settings), train.make_train_step(settings)
    for _ in range(30):
        current, _ = step(current, examples)
    return settings, current


def energies_along(trained, precision, seed, frames=(1999,)):
    """Float32 energies of `CHAINS` chains at `frames` of 2000 steps with products of the given precision."""
    settings, current = trained
    walk, judge = (
        energy.energy_function(energy.PaperEnergy(kind), current.params, current.batch_stats)
        for kind in (precision, "float32")
    )
    start_key, chain_key = jax.random.split(jax.random.key(seed))
    start = uniform_images(start_key, (CHAINS, settings.height, settings.width, 1))
    chain = LangevinSettings(2000, settings.step_size, settings.noise, settings.gradient_clip)
    kept = bridge_ebm.trajectory(chain_key, start, walk, chain, frames).frames
    return [np.asarray(judge(images)) for images in kept]


def test_2000_steps_end_with_the_same_energies(trained):
    (exact,) = energies_along(trained, "float32", 0)
    assert np.isfinite(exact).all()
    early, late = energies_along(trained, "bfloat16", 1, (19, 1999))
    assert stats.ks_2samp(exact, late).pvalue > 0.01
    # The test can tell chains apart: cut short, they have not arrived.
    assert stats.ks_2samp(exact, early).pvalue < 1e-4


def test_precision_is_a_setting_of_the_training_step(trained):
    settings, _ = trained
    rounded = dataclasses.replace(settings, precision="bfloat16")
    examples = data.examples(data.procedural(settings.height, settings.width, per_type=settings.per_type))
    losses = []
    for chosen in (settings, rounded):
        _, metrics = train.make_train_step(chosen)(state.init_state(chosen), examples)
        losses.append(float(metrics.real))
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 2e-2 * max(1.0, abs(losses[0]))

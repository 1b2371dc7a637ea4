"""What holds real pictures in their places: regression at the ends of chains that began at them.

Regression's paths come to a picture from noise. A chain that begins at the picture leaves it in other directions, along
which the energy's slope is a little off and its curvature small: members get a little thinner, thicker, or paler. Where
such a chain is still near, the slope is told to lead back (as DAgger teaches at the places that its own policy gets
to: Ross et al., "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", 2011).
Ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.tree_util import Partial

from bridge_ebm import contrastive, energy, langevin, objectives
from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import TrainState

# Root mean square difference of a pixel, of 2, up to which a chain is near the picture it began at. From the default
# model, a quarter of its finish's chains got farther in the first 150 updates: they are on the way to other pictures.
NEAR = 0.06


def gradient(
    state: TrainState,
    ends: jax.Array,
    origins: jax.Array,
    labels: jax.Array,
    network: nn.Module,
    settings: TrainSettings,
    mesh: Mesh | None,
) -> tuple[Any, jax.Array]:
    """The gradient in the weights of `finish_hold` times the mean error, and that error, float32 [].

    Takes the `ends` [B, H, W, 1] of chains of the classes `labels` [B], and the pictures that they began at, `origins`
    [B, H, W, 1]. At an end x the target of -grad E is that of Equilibrium Matching near a picture, 20 (goal - x), with
    the origin moved by the margins as the goal. The error of an end that is not NEAR its origin counts as 0.
    """

    def error_sum(batch_stats, params, batch):
        ends, origins, labels = batch
        energy_fn = energy.energy_function(network, params, batch_stats, labels if settings.conditional else None)
        slope = langevin.energy_and_gradient(energy_fn, ends)[1]
        goals = objectives.beyond(origins, settings.margin, settings.ink_margin)
        errors = objectives.well_error(slope, ends, goals)
        near = jnp.mean((ends - origins) ** 2, axis=(1, 2, 3)) < NEAR**2
        errors = jnp.where(near, errors, 0.0)
        return settings.finish_hold * errors.sum() / settings.finish_chains, errors

    error, means = Partial(error_sum, state.batch_stats), contrastive.gradient_means(settings, mesh)
    grads, errors = gradient_of_sum(error, state.params, (ends, origins, labels), means)
    return grads, errors.mean()

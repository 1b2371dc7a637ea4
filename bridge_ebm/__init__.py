"""bridge_ebm: invent bridge types with energy-based models, in JAX and Flax.

    model = bridge_ebm.load_model("default")
    start_key, chain_key = jax.random.split(jax.random.key(0))
    energy = model.energy("through_arch")
    start = model.start(start_key, 8, "through_arch")
    images = bridge_ebm.sample(chain_key, start, energy, model.settings.langevin)

which `model.draw(key, 8, "through_arch")` does in one call, and at half the cost for a model of mirror halves.

The core reads in this order: energy, langevin, replay, objectives, train, checkpoint.
"""

import jax
from jax.tree_util import Partial

from bridge_ebm import bridges, data, energy, langevin, metrics, models, objectives, replay, structure
from bridge_ebm.errors import InputError
from bridge_ebm.langevin import EnergyFn, LangevinSettings, Trajectory
from bridge_ebm.models import Model, list_models, load_model


def sample(key: jax.Array, images: jax.Array, energy_fn: EnergyFn, settings: LangevinSettings) -> jax.Array:
    """The ends float32 [B, H, W, 1] in [-1, 1] of Langevin chains from `images` [B, H, W, 1] in [-1, 1], downhill in
    `energy_fn`, a function from images [B, H, W, 1] to energies [B]: `langevin.sample`, compiled.

    `settings` are a model's (`model.settings.langevin`) or your own. An energy that is a `Partial` (a model's is)
    compiles once for all its weights.
    """
    return langevin.compiled_sample(key, images, _as_pytree(energy_fn), settings)


def trajectory(
    key: jax.Array, images: jax.Array, energy_fn: EnergyFn, settings: LangevinSettings, frames: tuple[int, ...]
) -> Trajectory:
    """As `sample`, the same chains for the same key, with the images at `frames` [F, B, H, W, 1] (frame i is the image
    after update i + 1) and the energies [num_steps, B] along them: `langevin.trajectory`, compiled.

    Raises ValueError unless every frame lies in 0 .. num_steps - 1.
    """
    return langevin.compiled_trajectory(key, images, _as_pytree(energy_fn), settings, frames)


def _as_pytree(energy_fn: EnergyFn) -> EnergyFn:
    return energy_fn if isinstance(energy_fn, Partial) else Partial(energy_fn)


__all__ = [
    "InputError",
    "LangevinSettings",
    "Model",
    "Trajectory",
    "bridges",
    "data",
    "energy",
    "langevin",
    "list_models",
    "load_model",
    "metrics",
    "models",
    "objectives",
    "replay",
    "sample",
    "structure",
    "trajectory",
]

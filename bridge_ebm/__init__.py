"""bridge_ebm: invent bridge types with energy-based models, in JAX and Flax.

    model = bridge_ebm.load_model(DIR)
    images = bridge_ebm.sample(key, model.start(key, 8), model.energy(), model.settings.langevin)

The modules read in this order: energy, langevin, replay, objectives, train, checkpoint.
"""

import jax

from bridge_ebm import bridges, data, energy, langevin, models, objectives, replay
from bridge_ebm.errors import InputError
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.models import Model, list_models, load_model

sample = jax.jit(langevin.sample, static_argnames="settings")
trajectory = jax.jit(langevin.trajectory, static_argnames=("settings", "frames"))

__all__ = [
    "InputError",
    "LangevinSettings",
    "Model",
    "bridges",
    "data",
    "energy",
    "langevin",
    "list_models",
    "load_model",
    "models",
    "objectives",
    "replay",
    "sample",
    "trajectory",
]

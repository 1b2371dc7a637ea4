"""Levels at which the sub-types of a model have equal shares of what it draws without a class."""

import math
from typing import Any

import jax
import numpy as np

from bridge_ebm import compose, langevin
from bridge_ebm.models import Model

_CHAINS = 64  # of a round
_ROUNDS = 32
_SLOWNESS = 4  # rounds after which the steps have halved


def levels(model: Model, key: jax.Array) -> np.ndarray:
    """Levels float [K] for `compose.lowest` over the K sub-types of a conditional `model`, of what its network sees.

    Training leaves the level of each sub-type's energy free, and how many chains each of them catches
    depends on them all. So they are found by drawing: after a round of 64 chains, just long enough to arrive, a
    sub-type that caught more than its share loses some of its level (stochastic approximation, Robbins and Monro 1951;
    the mean of the second half of the rounds, Polyak and Juditsky 1992). Raises ValueError for a model without
    sub-types.
    """
    names = model.settings.subtypes
    if not names:
        raise ValueError("this model knows no sub-types to balance")
    of_seen = model.half_energy if model.settings.mirror else model.energy
    energies: list[Any] = [of_seen(name) for name in names]
    # Regression teaches chains to arrive after 1 / step_size steps.
    settings = model.settings.langevin._replace(num_steps=math.ceil(1 / model.settings.step_size))

    def start(key: jax.Array) -> jax.Array:
        return model.start(key, _CHAINS)[:, :, : model.width // (2 if model.settings.mirror else 1)]

    def of_each(images: jax.Array) -> np.ndarray:
        return np.stack([np.asarray(compose.energies_under(energy, images)) for energy in energies], axis=1)

    noise = of_each(start(key))
    found = [noise.mean(0)]
    spread = (noise - noise.mean(1, keepdims=True)).std(0).mean()
    for k in range(_ROUNDS):
        start_key, chain_key = jax.random.split(jax.random.fold_in(key, k))
        ends = langevin.compiled_sample(chain_key, start(start_key), compose.lowest(energies, found[-1]), settings)
        caught = (of_each(ends) - found[-1]).argmin(1)
        excess = np.bincount(caught, minlength=len(names)) / _CHAINS - 1 / len(names)
        found.append(found[-1] - len(names) * spread * _SLOWNESS / (k + _SLOWNESS) * excess)
    return np.mean(found[-_ROUNDS // 2 :], axis=0)

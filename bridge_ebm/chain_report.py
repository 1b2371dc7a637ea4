"""What a model's chains do: pictures from noise with their energies on the way, the order of energies, and how well
real pictures hold.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bridge_ebm import langevin, metrics, mirror, processes
from bridge_ebm.compose import energies_under
from bridge_ebm.corruptions import CORRUPTIONS
from bridge_ebm.data import Dataset, to_uint8, to_unit
from bridge_ebm.evaluation import Real, evenly, names_of
from bridge_ebm.models import Model

TENTHS = 10
HELD = 100  # held-out pictures that are watched along a chain
ORDERED = 200  # pictures of each kind whose energies are compared
_BATCH = 64
_HOLD, _NOISE = 1, 2  # keys are folded with these; pictures from noise use 0
Array = np.ndarray
Subtypes = Sequence[str | None]


class Drawn(NamedTuple):
    """Pictures from chains, uint8 [N, H, W], and their energies at the start and after every tenth, [11, N]."""

    images: Array
    energies: Array


def draw(model: Model, asked: Subtypes, num_steps: int, seed: int, progress: bool = False) -> Drawn:
    """A picture for every sub-type asked for (None: without a class), by chains of `num_steps` steps from where the
    model's chains start.
    """
    key = jax.random.fold_in(jax.random.key(seed), 0)

    def start(key: jax.Array, places: Array, name: str | None) -> jax.Array:
        return model.start(key, len(places), name)

    return _run(model, key, start, asked, num_steps, "sampling" if progress else None)


def hold(
    model: Model, images: Array, asked: Subtypes, num_steps: int, seed: int, progress: bool = False
) -> tuple[Array, Array]:
    """Pictures uint8 [N, H, W] before and after `num_steps` steps of the chain of their sub-type (None: no class).

    A model of halves is shown the left half and its mirror image.
    """
    start = jnp.asarray(to_unit(images))
    if model.settings.mirror:
        start = mirror.unfold(start[:, :, : model.width // 2])
    key = jax.random.fold_in(jax.random.key(seed), _HOLD)

    def here(key: jax.Array, places: Array, name: str | None) -> jax.Array:
        return start[places]

    done = _run(model, key, here, asked, num_steps, "holding" if progress else None)
    return to_uint8(np.asarray(start)), done.images


class _Energy(NamedTuple):
    """The energy of whole pictures, and of what the chains run on: for a model of halves, those."""

    whole: langevin.EnergyFn
    seen: langevin.EnergyFn


def _energies_by_subtype(model: Model, asked: Subtypes) -> dict[str | None, _Energy]:
    """The energies of the sub-types asked for: they differ in their leaves alone, so that what is compiled for one
    serves all; the energy without a class (None) may be another function.
    """
    halves = model.settings.mirror
    return {
        name: _Energy(model.energy(name), model.half_energy(name) if halves else model.energy(name))
        for name in dict.fromkeys(asked)
    }


def _run(model: Model, key: jax.Array, start: Any, asked: Subtypes, num_steps: int, label: str | None) -> Drawn:
    """Chains sub-type by sub-type, in batches of one size: all but the first compile nothing. Several processes divide
    the batches among themselves.
    """
    by_subtype = _energies_by_subtype(model, asked)
    groups = {name: np.flatnonzero([one == name for one in asked]) for name in dict.fromkeys(asked)}
    most = max(map(len, groups.values()))
    size = -(-most // -(-most // _BATCH))
    batches = [
        (name, places[first : first + size]) for name, places in groups.items() for first in range(0, len(places), size)
    ]
    images = np.zeros((len(asked), model.height, model.width), np.uint8)
    energies = np.zeros((TENTHS + 1, len(asked)))
    mine = processes.share(list(enumerate(batches)))
    with tqdm(total=len(mine) * num_steps, desc=label, unit="step", disable=label is None) as bar:
        for number, (name, places) in mine:
            start_key, chain_key = jax.random.split(jax.random.fold_in(key, number))
            full = np.resize(places, size)  # filled up with repeats, whose results are dropped
            ends, on_the_way = _chains(model, chain_key, start(start_key, full, name), by_subtype[name], num_steps, bar)
            images[places] = to_uint8(ends)[: len(places)]
            energies[:, places] = on_the_way[:, : len(places)]
    return Drawn(processes.added(images), processes.added(energies))


def _chains(
    model: Model, key: jax.Array, images: jax.Array, energy: _Energy, num_steps: int, bar: Any
) -> tuple[Array, Array]:
    """One batch from its start to its end, in tenths; a model of halves runs on halves."""
    halved = model.settings.mirror
    energies = [np.asarray(energies_under(energy.whole, images))]
    state = images[:, :, : model.width // 2] if halved else images
    stops = np.arange(TENTHS + 1) * num_steps // TENTHS
    for part, steps in enumerate(np.diff(stops)):
        if steps:
            settings = model.settings.langevin._replace(num_steps=int(steps))
            state = langevin.compiled_sample(jax.random.fold_in(key, part), state, energy.seen, settings)
        images = mirror.unfold(state) if halved else state
        energies.append(np.asarray(energies_under(energy.whole, images)))
        bar.update(int(steps))
    return np.asarray(images), np.array(energies)


def energies_of(model: Model, images: Array, asked: Subtypes) -> Array:
    """Energies [N] of pictures uint8 [N, H, W], each under the energy of its sub-type (None: without a class)."""
    found = np.empty(len(images))
    for name, energy in _energies_by_subtype(model, asked).items():
        places = np.flatnonzero([one == name for one in asked])
        for first in range(0, len(places), _BATCH):
            some = places[first : first + _BATCH]
            batch = jnp.asarray(to_unit(images[np.resize(some, _BATCH)]))
            found[some] = np.asarray(energies_under(energy.whole, batch))[: len(some)]
    return found


def report(
    model: Model, drawn: Drawn, asked: Subtypes, real: Real, num_steps: int, hold_steps: int, seed: int
) -> dict[str, Any]:
    """Energies along the chains, their order over the kinds of pictures, and what 100 real pictures keep.

    A conditional model's energies are those of each picture's own sub-type; those without a class, where `asked` is
    None throughout. `hold_steps` 0 leaves the last out.
    """
    unconditional = all(one is None for one in asked)
    return {
        "along_the_chain": _along(drawn.energies, num_steps),
        "energy_auc": _order(model, drawn, asked, real.against, unconditional, seed),
        "hold": _hold(model, real, unconditional, hold_steps, seed) if hold_steps else None,
    }


def _along(energies: Array, num_steps: int) -> dict[str, Any]:
    means, stops = energies.mean(axis=1), np.arange(TENTHS + 1) * num_steps // TENTHS
    walked = np.diff(stops) > 0  # a chain of fewer than ten steps has tenths without any
    return {
        "steps": stops.tolist(),
        "mean_energy": means.tolist(),
        "chains_that_fell": float((energies[-1] < energies[0]).mean()),
        "tenths_that_fell": float((np.diff(energies, axis=0)[walked] <= 0).mean()),
    }


def _order(
    model: Model, drawn: Drawn, asked: Subtypes, real: Dataset, unconditional: bool, seed: int
) -> dict[str, float]:
    """An energy of a sub-type is known up to a constant, so each is measured from the mean of its real pictures."""
    picked = evenly(real, ORDERED)
    names: Subtypes = [None] * len(picked.images) if unconditional else names_of(picked)
    noise_key = jax.random.fold_in(jax.random.key(seed), _NOISE)
    noise = to_uint8(np.asarray(model.noise(noise_key, len(names))))
    of_real = energies_of(model, picked.images, names)
    means = {name: of_real[[one == name for one in names]].mean() for name in dict.fromkeys(names)}

    def measured(energies: Array, asked: Subtypes) -> Array:
        return energies - np.array([means.get(name, of_real.mean()) for name in asked])

    spoilt = {
        name: measured(energies_of(model, spoil(picked.images), names), names) for name, spoil in CORRUPTIONS.items()
    }
    sets = {
        "real": measured(of_real, names),
        "generated": measured(energies_of(model, drawn.images, asked), asked),
        "corrupted": np.concatenate(list(spoilt.values())),
        "noise": measured(energies_of(model, noise, names), names),
    }
    pairs = {f"{a}_below_{b}": metrics.auc(sets[a], sets[b]) for a, b in combinations(sets, 2)}
    return pairs | {f"real_below_{name}": metrics.auc(sets["real"], values) for name, values in spoilt.items()}


def _hold(model: Model, real: Real, unconditional: bool, num_steps: int, seed: int) -> dict[str, Any]:
    picked = evenly(real.against, HELD)
    names = names_of(picked)
    asked: Subtypes = [None] * len(names) if unconditional else names
    before, after = hold(model, picked.images, asked, num_steps, seed, progress=True)
    kept = metrics.ink_kept(before, after)
    nearest = [one.nearest for one in metrics.novelty(after, real.skeletons)]
    return {
        "pictures": len(kept),
        "steps": num_steps,
        "mean_ink_kept": float(kept.mean()),
        "worst_ink_kept": float(kept.min()),
        "same_subtype": float(np.mean([one == name for one, name in zip(nearest, names, strict=True)])),
    }

"""Langevin dynamics over any energy function, equation (12) in the order of the paper's notebook.

One step, with the weights fixed:

    x <- clip(x + noise * N(0, I), -1, 1)
    g <- clip(grad_x E(x), -gradient_clip, gradient_clip)
    x <- clip(x - step_size * g, -1, 1)

With no clip active this is a discretised Langevin equation at temperature noise^2 / (2 step_size). A chain may be told
when it has arrived (`LangevinSettings.tolerance`, not the paper's). Chains are independent: chain b of a batch draws
from its own key, so its path does not depend on how many others run beside it, or where.

An energy function maps images float32 [B, H, W, 1] in [-1, 1] to energies float32 [B], each independent of the
others. Everything here is pure and traceable; compile at the edge, `jax.jit(sample, static_argnames="settings")`,
with the energy a `jax.tree_util.Partial` so that its parameters are traced rather than baked in
(`bridge_ebm.sample` is exactly that).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EnergyFn = Callable[[jax.Array], jax.Array]
Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


# On a CPU the chains run to their end a few at a time: 16 pictures of 48 x 192 keep the activations of Table 1's
# network in the cache, 15% faster than all 128 at once.
CHUNK_PIXELS = 16 * 48 * 192


class LangevinSettings(NamedTuple):
    """A chain's length and constants (hashable: pass it as a static argument). The defaults are the paper's.

    `tolerance`: a chain stays where it is while the slope is less than that there, by the root mean square over its
    pixels of (x - x') / step_size, in which x' is where the step would lead (the projected gradient; Equilibrium
    Matching stops its chains by its norm, Wang and Du 2025, arXiv 2510.02300). 0: it never stays. Without noise a chain
    that stays once stays for good, and `run_chains` ends when all do.
    """

    num_steps: int = 1000
    step_size: float = 10.0
    noise: float = 0.005
    gradient_clip: float = 0.03
    tolerance: float = 0.0


class Trajectory(NamedTuple):
    """What `trajectory` returns: `frames` [F, B, H, W, 1], `energies` [num_steps, B] and the last `images` [B, H,
    W, 1].
    """

    frames: jax.Array
    energies: jax.Array
    images: jax.Array


def uniform_images(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform noise in [-1, 1], float32 [B, H, W, 1]: the latent space from which the paper's chains start."""
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def energy_and_gradient(energy_fn: EnergyFn, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Energies [B] and their gradients [B, H, W, 1] at `images` [B, H, W, 1], from one backward pass."""
    energies, pull_back = jax.vjp(energy_fn, images)
    return energies, pull_back(jnp.ones_like(energies))[0]


def langevin_step(
    chain_keys: jax.Array, images: jax.Array, energy_fn: EnergyFn, settings: LangevinSettings
) -> tuple[jax.Array, jax.Array]:
    """One step of equation (12) for every chain.

    `chain_keys` [B] are the keys of this step. Returns the images [B, H, W, 1] after the step and the energies [B]
    of the perturbed images at which the gradient was taken.
    """
    perturbed = jnp.clip(images + _noise(chain_keys, images, settings.noise), -1.0, 1.0)
    energies, gradient = energy_and_gradient(energy_fn, perturbed)
    gradient = jnp.clip(gradient, -settings.gradient_clip, settings.gradient_clip)
    moved = jnp.clip(perturbed - settings.step_size * gradient, -1.0, 1.0)
    if not settings.tolerance:
        return moved, energies
    slope = jnp.sqrt(jnp.square((perturbed - moved) / settings.step_size).mean((1, 2, 3), keepdims=True))
    return jnp.where(slope < settings.tolerance, images, moved), energies


def keys_at(chain_keys: jax.Array, step: jax.Array) -> jax.Array:
    """The keys [B] with which chains of keys `chain_keys` [B] take step number `step`."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(chain_keys, step)


def sample(key: jax.Array, images: jax.Array, energy_fn: EnergyFn, settings: LangevinSettings) -> jax.Array:
    """Run `settings.num_steps` Langevin steps from `images` [B, H, W, 1] in [-1, 1]; returns the final images."""
    return run_chains(jax.random.split(key, len(images)), images, energy_fn, settings)


def run_chains(
    keys: jax.Array,
    images: jax.Array,
    energy_fn: Callable[..., jax.Array],
    settings: LangevinSettings,
    labels: jax.Array | None = None,
    at_once: int = 0,
) -> jax.Array:
    """As `sample`, every chain with its own of `keys` [B], at most `at_once` chains side by side (0: what fits the
    cache on a CPU, elsewhere all).

    With `labels` [B] the energy is `energy_fn(images, labels)`: every chain has a class of its own.
    """
    if len(images) == 0:
        return images

    def chains(keys: jax.Array, images: jax.Array, *labels: jax.Array) -> jax.Array:
        def body(step: jax.Array, images: jax.Array) -> jax.Array:
            return langevin_step(keys_at(keys, step), images, lambda x: energy_fn(x, *labels), settings)[0]

        if settings.tolerance and not settings.noise:
            return _until_all_stay(body, settings.num_steps, images)
        return lax.fori_loop(0, settings.num_steps, body, images)

    starts = (keys, images) if labels is None else (keys, images, labels)
    if at_once:
        return _in_chunks(chains, at_once, *starts)
    fits = -(-len(images) // -(-images.size // max(CHUNK_PIXELS, images[0].size)))
    return lax.platform_dependent(*starts, cpu=partial(_in_chunks, chains, fits), default=chains)


def trajectory(
    key: jax.Array,
    images: jax.Array,
    energy_fn: EnergyFn,
    settings: LangevinSettings,
    frames: tuple[int, ...],
) -> Trajectory:
    """As `sample`, the same chain for the same key, keeping the chosen frames and every step's energies.

    Frame i is the image after update i + 1 (the notebook's numbering): frame 0 is one update from the start and frame
    num_steps - 1 the end. Only the chosen frames are kept in memory, in the order asked for. `energies[i]` belongs
    to the perturbed images of update i + 1. Raises ValueError for a frame outside 0 .. num_steps - 1, or none at
    all.
    """
    if not frames:
        raise ValueError(f"frames must name at least one, and must lie in 0 .. {settings.num_steps - 1}")
    keys = jax.random.split(key, len(images))

    def step(number: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return langevin_step(keys_at(keys, number), images, energy_fn, settings)

    return recorded(step, images, settings.num_steps, frames)


def recorded(step: Step, images: jax.Array, num_steps: int, frames: tuple[int, ...]) -> Trajectory:
    """`num_steps` of `step` from `images` [B, H, W, 1], keeping what `trajectory` says; `frames` may be empty.

    `step(number, images)` returns the images after the step and energies [B]; numbers count from 0.
    """
    if not all(0 <= frame < num_steps for frame in frames):
        raise ValueError(f"frames {frames} must lie in 0 .. {num_steps - 1} for a chain of {num_steps} steps")
    wanted, slot_of_frame = np.unique(np.asarray(frames, np.int32), return_inverse=True)
    # slot_of_step[i] says where to keep the image after update i + 1; one past the last slot is out of bounds, and
    # `mode="drop"` drops it. Without frames there is one slot all the same: arrays of no length cannot be indexed.
    num_slots = max(len(wanted), 1)
    slot_of_step = np.full(num_steps, num_slots, np.int32)
    slot_of_step[wanted] = np.arange(len(wanted))
    slots = jnp.asarray(slot_of_step)

    def body(number, carry):
        images, kept, energies = carry
        images, step_energies = step(number, images)
        return images, kept.at[slots[number]].set(images, mode="drop"), energies.at[number].set(step_energies)

    kept = jnp.zeros((num_slots, *images.shape), images.dtype)
    energies = jnp.zeros((num_steps, len(images)), jnp.float32)
    images, kept, energies = lax.fori_loop(0, num_steps, body, (images, kept, energies))
    return Trajectory(kept[slot_of_frame.reshape(-1)], energies, images)


compiled_sample = jax.jit(sample, static_argnames="settings")
compiled_trajectory = jax.jit(trajectory, static_argnames=("settings", "frames"))


def _until_all_stay(body: Callable[..., jax.Array], num_steps: int, images: jax.Array) -> jax.Array:
    """`num_steps` of `body(step, images)`, which depends on the images alone: once it moves none, it never will."""

    def moves(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        step, _, moved = carry
        return (step < num_steps) & moved

    def one(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        step, images, _ = carry
        after = body(step, images)
        return step + 1, after, (after != images).any()

    return lax.while_loop(moves, one, (jnp.int32(0), images, jnp.bool_(True)))[1]


def _noise(chain_keys: jax.Array, images: jax.Array, scale: float) -> jax.Array | float:
    """Normal noise of each chain's own key; none is drawn where none is asked for."""
    if scale == 0:
        return 0.0
    return scale * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(chain_keys)


def _in_chunks(chains: Callable[..., jax.Array], most: int, *starts: jax.Array) -> jax.Array:
    """`chains(keys [B], images [B, H, W, 1], ...)`, on equal parts of at most `most` chains, one after the other."""
    images = starts[1]
    count = -(-len(images) // most)
    if count <= 1:
        return chains(*starts)
    size = -(-len(images) // count)
    # The last part is filled up with copies of the first chains, whose results are dropped.
    padded = jnp.arange(size * count) % len(images)
    parts = jax.tree.map(lambda x: x[padded].reshape(count, size, *x.shape[1:]), starts)
    return lax.map(lambda part: chains(*part), parts).reshape(size * count, *images.shape[1:])[: len(images)]

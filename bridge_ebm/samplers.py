"""Samplers for composed energies: Langevin chains under constraints, Metropolis-adjusted chains, annealing.

`langevin.sample` is the paper's sampler, for one energy. What composition needs on top of it:

- `constrained`: the same chain, but every image of it keeps a constraint (`compose.held`, `compose.mirrored`) exactly.
- `metropolis`: Metropolis-adjusted Langevin (MALA: Roberts and Tweedie 1996) and, with several leapfrog steps or kept
  momentum, Hamiltonian Monte Carlo and its underdamped form (Horowitz 1991). Its law is exp(-E / T) itself, not that of
  a discretisation, which for sums of energies matters most: Langevin steps that suit each term are too large for
  the sum (Du et al. 2023, "Reduce, Reuse, Recycle", arXiv 2302.11552).
- `annealed`: the same along falling temperatures, as that paper recommends for products, so that a chain crosses
  between the minima of a sum before it settles in one.

Energies and projections are `jax.tree_util.Partial`s (`compose`). All is pure, and compiled at the edge:
`jax.jit(constrained, static_argnames=("settings", "frames"))` and so on. Chain b draws from its own key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from bridge_ebm.langevin import (
    EnergyFn,
    LangevinSettings,
    Trajectory,
    energy_and_gradient,
    keys_at,
    langevin_step,
    recorded,
)

# A constraint as `compose` makes it: images [B, H, W, 1] to the nearest that keep it.
Projection = Partial


class MetropolisSettings(NamedTuple):
    """Constants of a Metropolis-adjusted chain (hashable: pass it as a static argument).

    A proposal is `leapfrog` steps of Hamiltonian dynamics of length sqrt(2 step_size T); with one it is a Langevin step
    x - step_size * grad E + sqrt(2 step_size T) * N(0, I). `keep` in [0, 1) is the part of the momentum that survives
    each test: 0 renews it (MALA, HMC), near 1 the chain is underdamped. Temperature: that of the law exp(-E / T).
    """

    num_steps: int
    step_size: float
    temperature: float = 1.0
    leapfrog: int = 1
    keep: float = 0.0


class MetropolisChain(NamedTuple):
    """Where the chains end: `images` [B, H, W, 1], their `energies` [B], and the share of proposals `accepted` [B]."""

    images: jax.Array
    energies: jax.Array
    accepted: jax.Array


class _Point(NamedTuple):
    """A place of every chain, its energy [B] and gradient, and the momentum there."""

    images: jax.Array
    energies: jax.Array
    gradient: jax.Array
    momentum: jax.Array


def constrained(
    key: jax.Array,
    images: jax.Array,
    energy_fn: EnergyFn,
    settings: LangevinSettings,
    projection: Projection,
    frames: tuple[int, ...] = (),
) -> Trajectory:
    """Equation (12) on the images that keep `projection`'s constraint, every image of the chain to the last bit.

    The energy sees projected images only, so the gradient has no part across the constraint, and each step's result is
    projected. Returns what `langevin.trajectory` returns, in the same numbering of frames; `images` [B, H, W, 1] need
    not keep the constraint at the start. Without a constraint to keep it is that very chain. Raises ValueError for a
    frame outside 0 .. num_steps - 1.
    """
    keys = jax.random.split(key, len(images))

    def seen(images: jax.Array) -> jax.Array:
        return energy_fn(projection(images))

    def step(number: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, energies = langevin_step(keys_at(keys, number), images, seen, settings)
        return projection(images), energies

    return recorded(step, projection(images), settings.num_steps, frames)


def metropolis(
    key: jax.Array,
    images: jax.Array,
    energy_fn: EnergyFn,
    settings: MetropolisSettings,
    projection: Projection | None = None,
) -> MetropolisChain:
    """Run `settings.num_steps` Metropolis tests from `images` [B, H, W, 1]; the law exp(-E / T) is left as it is.

    Nothing is clipped, which would spoil the test: wrap an energy that is meant for [-1, 1] in `compose.boxed`. A
    `projection` restricts the chain to a constraint (an affine one: fixed pixels, symmetry). For
    `compose.regional`, whose value is not what its derivative derives from, the law is that of the value.
    """
    return annealed(key, images, energy_fn, settings, jnp.full(1, settings.temperature, jnp.float32), projection)


def annealed(
    key: jax.Array,
    images: jax.Array,
    energy_fn: EnergyFn,
    settings: MetropolisSettings,
    temperatures: jax.Array,
    projection: Projection | None = None,
) -> MetropolisChain:
    """`metropolis` at each of `temperatures` [K] in turn (falling ones anneal), `settings.num_steps` tests at each.

    The temperatures take the place of `settings.temperature`; the share of accepted proposals is over all.
    """
    project = projection if projection is not None else Partial(_unchanged)
    keys = jax.random.split(key, len(images))
    images = project(images)
    energies, gradient = energy_and_gradient(energy_fn, images)
    # The momentum that the first test keeps a part of is drawn from its law too, with keys that no test takes.
    own_keys = keys_at(keys, jnp.asarray(settings.num_steps * len(temperatures)))
    momentum = _along(project, _normal(own_keys, images))
    point = _Point(images, energies, _along(project, gradient), momentum)

    def level(carry, numbered):
        number, temperature = numbered

        def body(step, carry):
            point, accepted = carry
            step_keys = keys_at(keys, number * settings.num_steps + step)
            point, success = _test(step_keys, point, energy_fn, settings, temperature, project)
            return point, accepted + success

        return lax.fori_loop(0, settings.num_steps, body, carry), None

    levels = (jnp.arange(len(temperatures)), temperatures)
    (point, accepted), _ = lax.scan(level, (point, jnp.zeros(len(images))), levels)
    return MetropolisChain(point.images, point.energies, accepted / (settings.num_steps * len(temperatures)))


def _test(
    step_keys: jax.Array,
    point: _Point,
    energy_fn: EnergyFn,
    settings: MetropolisSettings,
    temperature: jax.Array,
    project: Projection,
) -> tuple[_Point, jax.Array]:
    """One proposal for every chain, accepted or not; returns the new place and which were accepted, float [B]."""
    normal_keys, uniform_keys = (jax.vmap(jax.random.fold_in, (0, None))(step_keys, part) for part in (0, 1))
    fresh = _along(project, _normal(normal_keys, point.images))
    momentum = settings.keep * point.momentum + (1 - settings.keep**2) ** 0.5 * fresh
    start = point._replace(momentum=momentum)
    end = start
    for _ in range(settings.leapfrog):
        end = _leap(end, energy_fn, settings.step_size, temperature, project)
    gain = (_hamiltonian(start, temperature) - _hamiltonian(end, temperature)).astype(jnp.float32)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, minval=jnp.finfo(jnp.float32).tiny))(uniform_keys)
    # A place that is not finite is never accepted: the comparison with NaN is false.
    success = jnp.log(uniform) < gain
    refused = start._replace(momentum=-momentum)

    def chosen(accepted, kept):
        return jnp.where(success.reshape(-1, *[1] * (accepted.ndim - 1)), accepted, kept)

    return jax.tree.map(chosen, end, refused), success.astype(jnp.float32)


def _leap(at: _Point, energy_fn: EnergyFn, step_size: float, temperature: jax.Array, project: Projection) -> _Point:
    """One leapfrog step of H = E / T + p^2 / 2, of length sqrt(2 step_size T): it can be run backwards."""
    length = jnp.sqrt(2 * step_size * temperature)
    half = at.momentum - 0.5 * length / temperature * at.gradient
    images = project(at.images + length * half)
    energies, gradient = energy_and_gradient(energy_fn, images)
    gradient = _along(project, gradient)
    return _Point(images, energies, gradient, half - 0.5 * length / temperature * gradient)


def _hamiltonian(at: _Point, temperature: jax.Array) -> jax.Array:
    return at.energies / temperature + 0.5 * (at.momentum**2).sum((1, 2, 3))


def _normal(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Standard normal numbers in the shape of `images` [B, H, W, 1], those of each from its own of `keys` [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


def _along(project: Projection, vectors: jax.Array) -> jax.Array:
    """The part of `vectors` that keeps the constraint: the linear part of the projection."""
    return project(vectors) - project(jnp.zeros_like(vectors))


def _unchanged(images: jax.Array) -> jax.Array:
    return images

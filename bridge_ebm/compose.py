"""Operations on energy functions: sums, mixtures, negations, regions of the picture, and constraints.

An energy function maps images float32 [B, H, W, 1] in [-1, 1] to energies [B], low where an image looks real; it
stands for the Boltzmann law exp(-E / T). Operations take such functions and return one, a `jax.tree_util.Partial`: a
pytree of all weights, masks and constants, so that `jit` takes it as an argument and new ones compile nothing.

    more than one at once   conjunction, disjunction, negation, tempered (Du, Li and Mordatch 2020, arXiv 2004.06030)
    one per image           one_of, lowest
    one per region          regional, companions; halves and weld for energies of half pictures
    of the picture alone    ink
    constraints             held, mirrored, in_turn: projections of images; restricted: an energy under one

Which of these are energies in the strict sense, that is, have the gradient of their value: all but `regional`, which
says so. Masks of regions are a partition of unity; `span_masks`, `deck_masks` and `cells` make them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

EnergyFn = Callable[[jax.Array], jax.Array]
# Images [B, H, W, 1] to the nearest images that keep a constraint; applied twice it changes nothing more.
Projection = Callable[[jax.Array], jax.Array]

SEAM = 1.5 / 192  # half width of a seam between regions, as a share of the picture's width: 1.5 pixels of 192


@jax.jit
def energies_under(energy: EnergyFn, images: jax.Array) -> jax.Array:
    """Energies [B] of `images` [B, H, W, 1] under an energy that is a `Partial`, compiled once for all its weights."""
    return energy(images)


def conjunction(energies: Sequence[EnergyFn], weights: Sequence[float] | None = None) -> Partial:
    """All at once: the sum of weights[k] * E_k (weights 1 unless given), the energy of the product of their laws.

    Raises ValueError unless there is a finite weight for each.
    """
    return Partial(_sum, _partials(energies), _weights(energies, weights))


def _sum(energies: tuple[Partial, ...], weights: jax.Array, images: jax.Array) -> jax.Array:
    return sum((weights[k] * energy(images) for k, energy in enumerate(energies)), jnp.zeros(len(images)))


def disjunction(
    energies: Sequence[EnergyFn], weights: Sequence[float] | None = None, temperature: float = 1.0
) -> Partial:
    """Any of them: -T log sum_k weights[k] exp(-E_k / T), the energy of the mixture of their laws at temperature T.

    The weights (positive; 1 unless given) multiply the unnormalised laws exp(-E_k / T). Raises ValueError for a weight
    or a temperature that is not above 0, which no mixture has.
    """
    if temperature <= 0 or (weights is not None and np.min(weights) <= 0):
        raise ValueError(f"a mixture has weights and a temperature above 0, not {weights} and {temperature}")
    return Partial(_mixture, _partials(energies), _weights(energies, weights), jnp.float32(temperature))


def _mixture(energies: tuple[Partial, ...], weights: jax.Array, temperature: jax.Array, images: jax.Array) -> jax.Array:
    logs = jnp.stack([jnp.log(weights[k]) - energy(images) / temperature for k, energy in enumerate(energies)])
    return -temperature * jax.nn.logsumexp(logs, axis=0)


def negation(energy: EnergyFn, level: float, strength: float = 1.0, bound: float = 1.0) -> Partial:
    """Not this one: -bound * tanh(strength (E - level) / bound), to be added to an energy of what is wanted.

    Near `level` (the energy of real pictures of what is not wanted) this is -strength * (E - level), as in Du et al.;
    it never leaves [-bound, bound], so the sum still has its minima where the wanted energy is low.
    """
    return Partial(_negated, _partial(energy), *(jnp.float32(value) for value in (level, strength, bound)))


def _negated(energy: Partial, level: jax.Array, strength: jax.Array, bound: jax.Array, images: jax.Array) -> jax.Array:
    return -bound * jnp.tanh(strength * (energy(images) - level) / bound)


def tempered(energy: EnergyFn, temperature: float) -> Partial:
    """E / T: the energy whose law at temperature 1 is that of `energy` at temperature T."""
    return conjunction([energy], [1 / temperature])


def one_of(energies: Sequence[Partial], index: jax.Array) -> Partial:
    """Image b under energies[index[b]]: the energies of one model's sub-types in one batch; `index` int [B].

    What the energies share (the same array object: a network's weights) is kept once, so a batch costs what it costs
    under a single energy. Raises ValueError where they are different functions.
    """
    return Partial(_one_of, *_shared_and_own("one_of", energies), jnp.asarray(index, jnp.int32))


def lowest(energies: Sequence[Partial], levels: Sequence[float] | np.ndarray) -> Partial:
    """Any of them: min_k (E_k - levels[k]), the disjunction at temperature 0.

    Its gradient is that of the lowest alone, so an image costs the values of all and the gradient of one. Which share
    of the noise each of them draws to itself is a matter of `levels` (`balance.levels` finds them). Energies of one
    function, as `one_of` takes them.
    """
    return Partial(_lowest, *_shared_and_own("lowest", energies), jnp.asarray(levels, jnp.float32))


def _lowest(first: Partial, own: Partial, levels: jax.Array, images: jax.Array) -> jax.Array:
    still = jax.lax.stop_gradient(images)

    def above_its_level(k: jax.Array) -> jax.Array:
        return _completed(first, jax.tree.map(lambda leaf: leaf[k], own))(still) - levels[k]

    index = jnp.argmin(jax.lax.map(above_its_level, jnp.arange(len(levels))), axis=0)
    return _one_of(first, own, index, images) - levels[index]


def _shared_and_own(name: str, energies: Sequence[Partial]) -> tuple[Partial, Partial]:
    """The first of `energies`, and what is another in each, stacked, with None in place of what they share."""
    if len({jax.tree.structure(energy) for energy in energies}) != 1:
        raise ValueError(f"{name} takes energies of one function: they differ in more than their arrays")
    return energies[0], jax.tree.map(lambda *leaves: None if _same(leaves) else jnp.stack(leaves), *energies)


def _same(leaves: tuple[jax.Array, ...]) -> bool:
    return all(leaf is leaves[0] for leaf in leaves)


def _completed(first: Partial, own: Partial) -> Partial:
    """One energy: what is its own, and for the rest what it shares with the first."""
    return jax.tree.map(
        lambda mine, shared: shared if mine is None else mine, own, first, is_leaf=lambda leaf: leaf is None
    )


def _one_of(first: Partial, own: Partial, index: jax.Array, images: jax.Array) -> jax.Array:
    def single(own: Partial, image: jax.Array) -> jax.Array:
        return _completed(first, own)(image[None])[0]

    return jax.vmap(single)(jax.tree.map(lambda leaf: leaf[index], own), images)


def regional(energies: Sequence[EnergyFn], masks: jax.Array | np.ndarray) -> Partial:
    """Energy k in region k: what moves a pixel is the mixture sum_k masks[k] * grad E_k, exactly.

    `masks` [K, H, W, 1] or, for other regions in every image, [K, B, H, W, 1]. This is no energy in the strict sense:
    masked gradients are in general the gradient of no function. The value is sum_k E_k(x); its derivative, as JAX
    takes it, leaves out how E_k depends on the pixels outside region k (they are held by `stop_gradient`). Under such
    a force Langevin dynamics has a stationary law, but not exp(-value). A Metropolis test by the value is a
    correct sampler of the conjunction, which is another law. `companions` is the alternative with a true energy.
    """
    return Partial(_regional, _partials(energies), jnp.asarray(masks, jnp.float32))


def _regional(energies: tuple[Partial, ...], masks: jax.Array, images: jax.Array) -> jax.Array:
    still = jax.lax.stop_gradient(images)
    # images - still is exactly 0: every energy sees the images themselves.
    parts = [energy(still + _per_image(mask) * (images - still)) for energy, mask in zip(energies, masks, strict=True)]
    return sum(parts, jnp.zeros(len(images)))


def companions(energies: Sequence[Partial], tie: jax.Array | np.ndarray) -> Partial:
    """K whole pictures, one under each energy, that agree where they are tied: a true energy.

    Its images [B, K * H, W, 1] hold the K pictures one above the other. With `tie` [K, H, W, 1] the stiffness t_k of
    the spring that ties picture k to the mean m = sum t_k u_k / sum t_k of all at a pixel (0: free),
    E = sum_k E_k(u_k) + sum over pixels of 1/2 sum_k t_k (u_k - m)^2. Each energy sees only whole pictures of the kind
    it was trained on; `join` then takes region k from picture k. The energies are of one function, as `one_of`
    takes them.
    """
    if len(tie) != len(energies):
        raise ValueError(f"{len(energies)} energies need as many ties, not {len(tie)}")
    return Partial(_companions, one_of(energies, jnp.arange(len(energies))), jnp.asarray(tie, jnp.float32))


def _companions(energies: Partial, tie: jax.Array, images: jax.Array) -> jax.Array:
    count = len(tie)
    parts = _unstacked(images, count)
    ties = tie[None]
    mean = (ties * parts).sum(1, keepdims=True) / jnp.maximum(ties.sum(1, keepdims=True), 1e-12)
    springs = 0.5 * (ties * (parts - mean) ** 2).sum((1, 2, 3, 4))
    first, own, _ = energies.args
    every = Partial(_one_of, first, own, jnp.arange(len(images) * count) % count)
    return springs + every(parts.reshape(-1, *parts.shape[2:])).reshape(-1, count).sum(1)


def join(images: jax.Array, masks: jax.Array | np.ndarray) -> jax.Array:
    """The pictures [B, H, W, 1] that `companions` images [B, K * H, W, 1] make: sum_k masks[k] * u_k."""
    masks = jnp.asarray(masks, jnp.float32)
    parts = _unstacked(images, len(masks))
    return sum((_per_image(mask) * parts[:, k] for k, mask in enumerate(masks)), jnp.zeros_like(parts[:, 0]))


def _unstacked(images: jax.Array, count: int) -> jax.Array:
    """[B, K * H, W, 1] to [B, K, H, W, 1]."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, count, height // count, width, channels)


def halves(left: EnergyFn, right: EnergyFn) -> Partial:
    """Energies of half pictures [B, H, W/2, 1] on whole ones: left(left half) + right(mirrored right half)."""
    return Partial(_halves, _partial(left), _partial(right))


def _halves(left: Partial, right: Partial, images: jax.Array) -> jax.Array:
    middle = images.shape[2] // 2
    return left(images[:, :, :middle]) + right(images[:, :, ::-1][:, :, :middle])


def weld(stiffness: jax.Array | np.ndarray) -> Partial:
    """A spring between every pixel and its mirror image: 1/2 sum stiffness * (x - mirrored x)^2 over the left half.

    `stiffness` [H, W/2, 1] or [B, H, W/2, 1]; 0 where the two halves are free to differ.
    """
    return Partial(_weld, jnp.asarray(stiffness, jnp.float32))


def _weld(stiffness: jax.Array, images: jax.Array) -> jax.Array:
    middle = images.shape[2] // 2
    apart = images[:, :, :middle] - images[:, :, ::-1][:, :, :middle]
    return 0.5 * (_per_image(stiffness) * apart**2).sum((1, 2, 3))


def ink(price: float) -> Partial:
    """A price on ink: price * sum (x + 1). With the clip at -1 a gradient step takes a little of every grey and leaves
    none of the faintest, as the soft threshold of sparse regression does; in sums it clears the haze of a chain.
    """
    return Partial(_ink, jnp.float32(price))


def _ink(price: jax.Array, images: jax.Array) -> jax.Array:
    return price * (images + 1).sum((1, 2, 3))


def held(mask: jax.Array | np.ndarray, picture: jax.Array | np.ndarray) -> Partial:
    """Projection: pixels of the bool `mask` [H, W, 1] are those of `picture` [H, W, 1], to the last bit.

    Both may be [B, H, W, 1] instead, one for each image.
    """
    return Partial(_held, jnp.asarray(mask, bool), jnp.asarray(picture, jnp.float32))


def _held(mask: jax.Array, picture: jax.Array, images: jax.Array) -> jax.Array:
    return jnp.where(mask, picture, images)


def mirrored() -> Partial:
    """Projection: the mean of an image and its mirror image, symmetric to the last bit."""
    return Partial(_mirrored)


@jax.custom_vjp
def _mirrored(images: jax.Array) -> jax.Array:
    width = images.shape[2]
    left = ((images + images[:, :, ::-1]) / 2)[:, :, : (width + 1) // 2]
    # One half is computed and the other copied: compiled together with what comes before, the two sums of a mean could
    # be rounded differently (a fused multiply-add takes one summand unrounded).
    left = jax.lax.optimization_barrier(left)
    return jnp.concatenate([left, left[:, :, : width // 2][:, :, ::-1]], axis=2)


# The mean with the mirror image is its own transpose.
_mirrored.defvjp(lambda images: (_mirrored(images), None), lambda _, pull: ((pull + pull[:, :, ::-1]) / 2,))


def in_turn(projections: Sequence[Projection]) -> Partial:
    """Projection on to several constraints, the last one applied last; they must not contradict each other."""
    return Partial(_in_turn, _partials(projections))


def _in_turn(projections: tuple[Partial, ...], images: jax.Array) -> jax.Array:
    for projection in projections:
        images = projection(images)
    return images


def restricted(energy: EnergyFn, projection: Projection) -> Partial:
    """The energy of the projected image: it sees only images that keep the constraint, and pulls only along it."""
    return Partial(_restricted, _partial(energy), _partial(projection))


def _restricted(energy: Partial, projection: Partial, images: jax.Array) -> jax.Array:
    return energy(projection(images))


def boxed(energy: EnergyFn, stiffness: float = 1.0) -> Partial:
    """The energy on all real-valued images: that of the clipped image, and springs back into [-1, 1].

    For samplers that must not clip, as a Metropolis test forbids.
    """
    return Partial(_boxed, _partial(energy), jnp.float32(stiffness))


def _boxed(energy: Partial, stiffness: jax.Array, images: jax.Array) -> jax.Array:
    inside = jnp.clip(images, -1.0, 1.0)
    return energy(inside) + 0.5 * stiffness * ((images - inside) ** 2).sum((1, 2, 3))


def span_masks(width: int, seams: Sequence[float], softness: float = 1.0) -> np.ndarray:
    """Shares [len(seams) + 1, W] of the regions left of, between and right of `seams` (pixels from the left edge).

    Neighbours pass into each other by a sigmoid of `SEAM` times `width` pixels, times `softness`; the shares of a
    column add up to 1.
    """
    return _partition(np.arange(width) + 0.5, np.asarray(seams, float), softness * SEAM * width)


def deck_masks(height: int, width: int) -> np.ndarray:
    """Shares [2, H] of the regions above and below the middle of pictures `height` x `width`."""
    middle = height / 2
    return _partition(np.arange(height) + 0.5, np.array([middle]), SEAM * width / 3)


def _partition(places: np.ndarray, seams: np.ndarray, softness: float) -> np.ndarray:
    beyond = 0.5 * (1 + np.tanh((places[None] - seams[:, None]) / (2 * softness)))  # the logistic function
    steps = np.concatenate([np.ones((1, len(places))), beyond, np.zeros((1, len(places)))])
    return steps[:-1] - steps[1:]


def cells(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Masks float32 [R * C, H, W, 1] of the cells of shares `rows` [R, H] and `columns` [C, W], row by row."""
    masks = rows[:, None, :, None] * columns[None, :, None, :]
    return masks.reshape(len(rows) * len(columns), rows.shape[1], columns.shape[1], 1).astype(np.float32)


def _per_image(mask: jax.Array) -> jax.Array:
    """A mask [H, W, 1] of all images, or [B, H, W, 1] of each, as one that multiplies images [B, H, W, 1]."""
    return mask[None] if mask.ndim == 3 else mask


def _partial(function: Callable[[jax.Array], jax.Array]) -> Partial:
    return function if isinstance(function, Partial) else Partial(function)


def _partials(functions: Sequence[Callable[[jax.Array], jax.Array]]) -> tuple[Partial, ...]:
    if not functions:
        raise ValueError("an operation on energies needs at least one")
    return tuple(_partial(function) for function in functions)


def _weights(energies: Sequence[EnergyFn], weights: Sequence[float] | None) -> jax.Array:
    given = np.ones(len(energies)) if weights is None else np.asarray(weights, float)
    if given.shape != (len(energies),) or not np.isfinite(given).all():
        raise ValueError(f"{len(energies)} energies need as many finite weights, not {weights}")
    return jnp.asarray(given, jnp.float32)

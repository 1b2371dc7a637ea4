"""Losses: energies or their gradients in, scalars out. No network, no optimiser, no sampling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class ContrastiveTerms(NamedTuple):
    """The five curves of the paper's Fig. 4, each a float32 scalar."""

    loss: jax.Array
    reg: jax.Array
    cdiv: jax.Array
    real: jax.Array
    fake: jax.Array


def contrastive_divergence(real_energies: jax.Array, fake_energies: jax.Array, alpha: Any) -> ContrastiveTerms:
    """Equation (11) and its regulariser, from the energies [B] of real and [J] of generated images.

        cdiv = mean E(real) - mean E(fake),    reg = alpha * mean(E(real)^2 + E(fake)^2),    loss = cdiv + reg

    The regulariser pulls the two means to equal size and opposite sign (to -1/(2 alpha) and 1/(2 alpha) if nothing
    else moves them). The gradient is that of maximum likelihood if the fake images are samples of the model
    (Appendix A).
    """
    real, fake = jnp.mean(real_energies), jnp.mean(fake_energies)
    cdiv = real - fake
    reg = alpha * (jnp.mean(real_energies**2) + jnp.mean(fake_energies**2))
    return ContrastiveTerms(cdiv + reg, reg, cdiv, real, fake)


def floored_contrast(
    energies: tuple[jax.Array, jax.Array], labels: tuple[jax.Array, jax.Array], floor: float, trim: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """max(mean E(real) - mean E(fake), -floor) of every class, averaged over the fakes, without the `trim` of them that
    lie highest above the real pictures of their class (Balcerak et al., "Energy Matching", 2025, for one class):
    contrastive divergence that cannot run away.

    Class by class, because the level of an energy differs between classes by more than the floor. Fakes of high energy
    are chains that have not arrived; those of a class without a real picture in the batch are left out. Takes the
    energies of real pictures [B] and of fakes [J], with int labels of the same shapes; returns the loss and both means.
    """
    (real_energies, fake_energies), (real_labels, fake_labels) = energies, labels
    of_class = fake_labels[:, None] == real_labels[None, :]
    real = _mean(of_class, real_energies)
    above = jnp.where(of_class.any(1), fake_energies - real, jnp.inf)
    rank = jnp.argsort(jnp.argsort(above))
    kept = (rank < len(above) - round(trim * len(above))) & of_class.any(1)
    fake = _mean((fake_labels[:, None] == fake_labels[None, :]) & kept[None, :], fake_energies)
    return _mean(kept, jnp.maximum(real - fake, -floor)), _mean(kept, real), _mean(kept, fake)


def unevenness(energies: jax.Array, labels: jax.Array, told: jax.Array) -> jax.Array:
    """Mean squared distance of the energies [B] of real pictures from the mean of their class in the batch.

    Real pictures are all as likely, so the energy should be level among them; where it slopes, chains gather at its low
    end. Takes int labels [B], and counts those that are `told` a class, bool [B]. Ours.
    """
    same = (labels[:, None] == labels[None, :]) & told[None, :]
    return _mean(told, (energies - _mean(same, energies)) ** 2)


def _mean(chosen: jax.Array, values: jax.Array) -> jax.Array:
    """Means [...] of `values` [N] over those that the rows of `chosen` [..., N] choose; 0 where they choose none."""
    sums = jnp.where(chosen, jnp.broadcast_to(values, chosen.shape), 0.0).sum(-1)
    return sums / jnp.maximum(chosen.sum(-1), 1)


def target_speed(t: Any, objective: str) -> Any:
    """c(t) of the gradient regression's target (x1 - x0) c(t), for times t in [0, 1]; NumPy and JAX arrays.

    'equilibrium': 4 min(1, 5 (1 - t)), which vanishes at the data, so that data stay where they are (Wang and Du,
    "Equilibrium Matching", 2025). 'energy_matching': 1 (Balcerak et al.).
    """
    if objective == "equilibrium":
        return 4.0 * (5.0 * (1.0 - t)).clip(max=1.0)
    return 1.0 + 0.0 * t


def beyond(images: jax.Array, margin: float, ink_margin: float = 0.0) -> jax.Array:
    """Images in [-1, 1] moved a little past themselves: what regression aims at, so that chains end on pictures.

    Black and white lie `margin` further out: chains then end on them and not close by. A grey gets `ink_margin` of its
    ink, its distance from black, more, but no more than white has: chains come to a thin member from its pale side.
    """
    greys = jnp.minimum(images + ink_margin * (1.0 + images), 1.0 + margin)
    return jnp.where(jnp.abs(images) < 1.0, greys, (1.0 + margin) * images)


def well_error(gradient: jax.Array, images: jax.Array, goals: jax.Array) -> jax.Array:
    """Mean over the pixels of |-grad E(x) - 20 (goal - x)|^2, per image [B]: 'equilibrium' near a picture, wherever the
    path to it began. `gradient` of the energy at x = `images`, all [B, H, W, 1].
    """
    return jnp.mean((gradient + 20.0 * (goals - images)) ** 2, axis=(1, 2, 3))


def regression_error(gradient: jax.Array, noise: jax.Array, real: jax.Array, t: jax.Array, objective: str) -> jax.Array:
    """Mean over the pixels of |-grad E(x_t) - (x1 - x0) c(t)|^2, per image [B].

    `gradient` of the energy at x_t = (1 - t) x0 + t x1, x0 `noise`, x1 `real`, all [B, H, W, 1]; `t` [B].
    """
    target = (real - noise) * target_speed(t, objective)[:, None, None, None]
    return jnp.mean((gradient + target) ** 2, axis=(1, 2, 3))

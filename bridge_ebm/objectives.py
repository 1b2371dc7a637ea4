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
    real_energies: jax.Array, fake_energies: jax.Array, floor: float, trim: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """max(mean E(real) - mean E(fake), -floor) without the highest `trim` of the fake energies (Balcerak et al.,
    "Energy Matching", 2025): contrastive divergence that cannot run away.

    Fakes of high energy are chains that have not arrived. Takes energies [B] and [J]; returns the loss and the two
    means.
    """
    kept = len(fake_energies) - round(trim * len(fake_energies))
    real, fake = jnp.mean(real_energies), jnp.mean(jnp.sort(fake_energies)[:kept])
    return jnp.maximum(real - fake, -floor), real, fake


def target_speed(t: Any, objective: str) -> Any:
    """c(t) of the gradient regression's target (x1 - x0) c(t), for times t in [0, 1]; NumPy and JAX arrays.

    'equilibrium': 4 min(1, 5 (1 - t)), which vanishes at the data, so that data stay where they are (Wang and Du,
    "Equilibrium Matching", 2025). 'energy_matching': 1 (Balcerak et al.).
    """
    if objective == "equilibrium":
        return 4.0 * (5.0 * (1.0 - t)).clip(max=1.0)
    return 1.0 + 0.0 * t


def regression_error(gradient: jax.Array, noise: jax.Array, real: jax.Array, t: jax.Array, objective: str) -> jax.Array:
    """Mean over the pixels of |-grad E(x_t) - (x1 - x0) c(t)|^2, per image [B].

    `gradient` of the energy at x_t = (1 - t) x0 + t x1, x0 `noise`, x1 `real`, all [B, H, W, 1]; `t` [B].
    """
    target = (real - noise) * target_speed(t, objective)[:, None, None, None]
    return jnp.mean((gradient + target) ** 2, axis=(1, 2, 3))

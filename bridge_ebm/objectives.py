"""Losses: energies in, scalars out. No network, no optimiser, no sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ContrastiveTerms(NamedTuple):
    """The five curves of the paper's Fig. 4, each a float32 scalar."""

    loss: jax.Array
    reg: jax.Array
    cdiv: jax.Array
    real: jax.Array
    fake: jax.Array


def contrastive_divergence(real_energies: jax.Array, fake_energies: jax.Array, alpha: float) -> ContrastiveTerms:
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

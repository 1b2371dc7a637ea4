"""Gradient regression as this project trains: Equilibrium Matching on left halves of the pictures.

The loss is on the energy's input gradient, so an update takes second-order derivatives. Half a picture is enough
because bridges are symmetric. Targets after Wang and Du, "Equilibrium Matching" (2025): along x_t = (1 - t) x0 + t x1
from noise x0 to a picture x1 the descent direction -grad E is to be (x1 - x0) c(t), which fades out at the picture.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.convolution import Precision, conv_general_dilated, dot_general
from bridge_ebm.langevin import energy_and_gradient

LEARNING_RATE, BETAS = 1e-3, (0.9, 0.95)
LAYERS = ((64, 5), (128, 3), (256, 3), (256, 3))
HEAD_SCALE = 96.0


class HalfPictureEnergy(nn.Module):
    """Table 1 without batch norm, with twice the channels and a linear read-out at every scale: 1.55 M parameters.

    The read-out is a 1 x 1 convolution to one channel, summed over the picture. The sum comes first here, which is the
    same function and needs no product per pixel.
    """

    precision: Precision = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Energies float32 [B] of `images` [B, H, W, 1]."""
        convolve, product = conv_general_dilated(self.precision), dot_general(self.precision)
        x, read_out = images, jnp.zeros((len(images), 1), jnp.float32)
        for filters, size in LAYERS:
            x = nn.swish(nn.Conv(filters, (size, size), strides=2, conv_general_dilated=convolve)(x))
            read_out += nn.Dense(1, use_bias=False)(x.sum((1, 2)))
        x = nn.swish(nn.Dense(128, dot_general=product)(x.reshape(len(x), -1)))
        return (read_out + HEAD_SCALE * nn.Dense(1)(x))[:, 0]


def target_scale(t: Any) -> Any:
    """c(t) = 4 min(1, 5 (1 - t)); for NumPy and JAX arrays."""
    return 4.0 * (5.0 * (1.0 - t)).clip(max=1.0)


def regression_loss(network: nn.Module, params: Any, x0: jax.Array, x1: jax.Array, t: jax.Array) -> jax.Array:
    """Mean squared difference of -grad E(x_t) from (x1 - x0) c(t): noise x0, pictures x1 [B, H, W, 1], times t [B]."""
    t = t[:, None, None, None]
    energy_fn: Any = partial(network.apply, {"params": params})
    _, gradient = energy_and_gradient(energy_fn, (1.0 - t) * x0 + t * x1)
    return jnp.mean((-gradient - (x1 - x0) * target_scale(t)) ** 2)


def make_update(params: Any, pictures: np.ndarray, batch: int, precision: Precision) -> Any:
    """The function that does one update on uint8 `pictures` [N, H, W] and returns its loss."""
    network = HalfPictureEnergy(precision)
    optimizer = optax.adam(LEARNING_RATE, *BETAS)
    images = jnp.asarray(pictures)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, key, images):
        pick_key, noise_key, time_key = jax.random.split(key, 3)
        picked = images[jax.random.randint(pick_key, (batch,), 0, len(images)), :, :, None]
        x1 = picked.astype(jnp.float32) / 127.5 - 1.0
        x0, t = jax.random.normal(noise_key, x1.shape), jax.random.uniform(time_key, (batch,))

        def error_sum(params, part):
            loss = regression_loss(network, params, *part)
            return loss * (len(part[0]) / batch), jnp.full(len(part[0]), loss)

        grads, losses = gradient_of_sum(error_sum, params, (x0, x1, t))
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, losses.mean()

    params, count = jax.tree.map(jnp.copy, params), 0
    carry = params, optimizer.init(params)

    def update() -> float:
        nonlocal carry, count
        count += 1
        *carry, loss = step(*carry, jax.random.fold_in(jax.random.key(0), count), images)
        return float(loss)

    return update

"""Table 1 as one would write it in Flax without looking further: `nn.Conv`, `nn.BatchNorm`, a jitted `fori_loop`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from bridge_ebm import replay
from bridge_ebm.settings import TrainSettings
from peers import FLOAT32_TOLERANCE, Peer


class PlainEnergy(nn.Module):
    """The layers of `energy.PaperEnergy` in the library's own convolutions and products; takes the same variables."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Energies [B] of images [B, H, W, 1]."""
        for filters, size in ((32, 5), (64, 3), (128, 3), (128, 3)):
            x = nn.Conv(filters, (size, size), strides=2)(x)
            x = nn.swish(nn.BatchNorm(use_running_average=True, epsilon=1e-3)(x))
        x = nn.swish(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(1)(x)[:, 0]


def make_peer(variables: dict[str, Any], settings: TrainSettings, pictures: np.ndarray) -> Peer:
    """The plain network with a compiled chain and a compiled update around our replay buffer."""
    network: Any = PlainEnergy()
    stats = variables["batch_stats"]
    energies = jax.jit(network.apply)

    def run_chain(params, key, images, steps, noise):
        def body(step, images):
            images += noise * jax.random.normal(jax.random.fold_in(key, step), images.shape)
            images = jnp.clip(images, -1.0, 1.0)
            gradient = jax.grad(lambda x: network.apply({"params": params, "batch_stats": stats}, x).sum())(images)
            gradient = jnp.clip(gradient, -settings.gradient_clip, settings.gradient_clip)
            return jnp.clip(images - settings.step_size * gradient, -1.0, 1.0)

        return jax.lax.fori_loop(0, steps, body, images)

    compiled_chain = jax.jit(run_chain)
    optimizer = optax.adam(settings.learning_rate, eps=1e-7)

    def loss_fn(params, real, fake):
        both = network.apply({"params": params, "batch_stats": stats}, jnp.concatenate([real, fake]))
        real, fake = jnp.split(both, 2)
        return jnp.mean(real) - jnp.mean(fake) + settings.alpha * jnp.mean(real**2 + fake**2)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, opt_state, buffer, key, images):
        draw_key, chain_key, pick_key, noise_key = jax.random.split(key, 4)
        starts = replay.draw(draw_key, buffer, settings.restart)
        fake = run_chain(params, chain_key, starts, settings.langevin_steps, settings.noise)
        picked = images[jax.random.randint(pick_key, (settings.batch_size,), 0, len(images))]
        real = picked[..., None].astype(jnp.float32) / 127.5 - 1.0
        real = jnp.clip(real + settings.noise * jax.random.normal(noise_key, real.shape), -1.0, 1.0)
        loss, grads = jax.value_and_grad(loss_fn)(params, real, fake)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, replay.insert(buffer, fake, settings.buffer_size), loss

    def make_update():
        params = jax.tree.map(jnp.copy, variables["params"])
        shape = (settings.height, settings.width, 1)
        buffer = replay.init(jax.random.key(1), settings.buffer_size, settings.batch_size, shape)
        carry = params, optimizer.init(params), buffer
        count, images = 0, jnp.asarray(pictures)

        def update() -> float:
            nonlocal carry, count
            count += 1
            *carry, loss = step(*carry, jax.random.fold_in(jax.random.key(2), count), images)
            return float(loss)

        return update

    return Peer(
        "flax_conv",
        FLOAT32_TOLERANCE,
        lambda images: np.asarray(energies(variables, jnp.asarray(images))),
        lambda starts, steps, noise: np.asarray(
            compiled_chain(variables["params"], jax.random.key(0), jnp.asarray(starts), steps, noise)
        ),
        make_update,
    )

"""Training by contrastive divergence: a state, and one compiled step that takes it to the next.

The step is a pure function of (state, data): every random draw, the order of the data included, is a function of
the seed and the number of the update, so a run that is continued from a checkpoint repeats the one that was never
stopped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from bridge_ebm import data, energy, langevin, objectives, replay
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings


class TrainState(NamedTuple):
    """All that changes from update to update; a pytree of arrays."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    buffer: replay.ReplayBuffer


class Metrics(NamedTuple):
    """What an update reports: the five terms of the loss, and the norm of its gradient."""

    terms: objectives.ContrastiveTerms
    gradient_norm: jax.Array


TrainStep = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


def keras_adam(
    learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Adam as Keras computes it: `eps` is added to sqrt(v) before the bias correction (Kingma and Ba, end of
    section 2).

    With optax.adam the first updates of weights with small gradients would differ by up to a few percent from the
    paper's.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        first, second = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, second)

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.nu, grads)
        rate = learning_rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def chain_settings(settings: TrainSettings) -> langevin.LangevinSettings:
    """The chains of the training step."""
    return langevin.LangevinSettings(
        settings.langevin_steps, settings.step_size, settings.noise, settings.gradient_clip
    )


def updates_per_epoch(settings: TrainSettings, num_images: int) -> int:
    """Whole batches in one pass over the data (75 for the paper's 9600 images); an `InputError` if there is not one."""
    if num_images < settings.batch_size:
        raise InputError(
            f"--batch_size={settings.batch_size}: the training part of --data={settings.data} has only "
            f"{num_images} pictures; use --batch_size={num_images} or smaller"
        )
    return num_images // settings.batch_size


@partial(jax.jit, static_argnums=0)
def init_state(settings: TrainSettings) -> TrainState:
    """The state before the first update: Keras's initial weights, a buffer of one batch of noise."""
    network_key, buffer_key = jax.random.split(jax.random.key(settings.seed))
    network = energy.make_network(settings.network, settings.precision)
    variables = energy.init_variables(network, network_key, settings.height, settings.width)
    shape = (settings.height, settings.width, 1)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=keras_adam(settings.learning_rate).init(variables["params"]),
        buffer=replay.init(buffer_key, settings.buffer_size, settings.batch_size, shape),
    )


def real_batch(key: jax.Array, images: jax.Array, step: jax.Array, settings: TrainSettings) -> jax.Array:
    """The real images [batch_size, H, W, 1] of update `step`, from uint8 `images` [N, H, W], with noise and a clip.

    Each epoch is a fresh permutation, as a function of (key, epoch); a last incomplete batch is left out.
    """
    order_key, noise_key = jax.random.split(key)
    per_epoch = updates_per_epoch(settings, len(images))
    order = data.epoch_order(order_key, step // per_epoch, len(images))
    index = jax.lax.dynamic_slice_in_dim(order, step % per_epoch * settings.batch_size, settings.batch_size)
    real = data.to_unit(images[index])
    noise = jax.random.normal(jax.random.fold_in(noise_key, step), real.shape)
    return jnp.clip(real + settings.noise * noise, -1.0, 1.0)


def contrastive_update(
    state: TrainState,
    real: jax.Array,
    fake: jax.Array,
    network: nn.Module,
    settings: TrainSettings,
) -> tuple[Any, optax.OptState, Metrics]:
    """One optimiser update from real and fake images [B, H, W, 1]; no gradient flows into the chains that made the
    fakes.
    """
    both = jnp.concatenate([real, jax.lax.stop_gradient(fake)])

    def loss_fn(params):
        energies = energy.energy_function(network, params, state.batch_stats)(both)
        terms = objectives.contrastive_divergence(energies[: len(real)], energies[len(real) :], settings.alpha)
        return terms.loss, terms

    grads, terms = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = keras_adam(settings.learning_rate).update(grads, state.opt_state)
    return optax.apply_updates(state.params, updates), opt_state, Metrics(terms, _norm(grads))


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)])))


def make_train_step(settings: TrainSettings) -> TrainStep:
    """The compiled update: draw starts, run the chains, take the loss, update the weights, insert the chains' ends.

    The returned function takes (state, uint8 images [N, H, W]) and returns (state, Metrics). It donates the state:
    the buffer is updated in place, and the state passed in must not be used again.
    """
    network = energy.make_network(settings.network, settings.precision)

    def step(state: TrainState, images: jax.Array) -> tuple[TrainState, Metrics]:
        data_key, chain_root = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 1))
        draw_key, chain_key = jax.random.split(jax.random.fold_in(chain_root, state.step))
        energy_fn = energy.energy_function(network, state.params, state.batch_stats)
        starts = replay.draw(draw_key, state.buffer, settings.batch_size, settings.restart)
        fake = langevin.sample(chain_key, starts, energy_fn, chain_settings(settings))
        real = real_batch(data_key, images, state.step, settings)
        params, opt_state, metrics = contrastive_update(state, real, fake, network, settings)
        buffer = replay.insert(state.buffer, fake)
        return TrainState(state.step + 1, params, state.batch_stats, opt_state, buffer), metrics

    return jax.jit(step, donate_argnums=0)

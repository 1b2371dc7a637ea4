"""One update of the paper's training: contrastive divergence with chains from the replay buffer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from bridge_ebm import data, energy, guards, langevin, objectives, replay
from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.data import Examples
from bridge_ebm.optimizer import eased, make_optimizer, moved_average
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, TrainStep, network_of


def chain_settings(settings: TrainSettings) -> langevin.LangevinSettings:
    """The chains of the training step."""
    return langevin.LangevinSettings(
        settings.langevin_steps, settings.step_size, settings.noise, settings.gradient_clip
    )


def real_batch(key: jax.Array, images: jax.Array, step: jax.Array, settings: TrainSettings) -> jax.Array:
    """The real images [batch_size, H, W, 1] of update `step`, from uint8 `images` [N, H, W], with noise and a clip.

    Each epoch is a fresh permutation, as a function of (key, epoch); a last incomplete batch is left out.
    """
    order_key, noise_key = jax.random.split(key)
    real = data.to_unit(images[data.batch_index(order_key, step, len(images), settings.batch_size)])
    noise = jax.random.normal(jax.random.fold_in(noise_key, step), real.shape)
    return jnp.clip(real + settings.noise * noise, -1.0, 1.0)


def fresh_starts(draw_key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise for chains that have to start afresh, from a key that `replay.draw` does not derive from the same."""
    return langevin.uniform_images(jax.random.fold_in(draw_key, 1000), shape)


def contrastive_update(
    state: TrainState,
    real: jax.Array,
    fake: jax.Array,
    network: nn.Module,
    settings: TrainSettings,
    easing: jax.Array | float = 1.0,
) -> tuple[Any, optax.OptState, Metrics]:
    """One optimiser update from as many real as fake images [B, H, W, 1]; no gradient flows into the chains that made
    the fakes. An update that is not finite changes nothing.

    The loss is a mean over pairs of a real and a fake image, so its gradient is taken a few pairs at a time.
    """
    pairs = jnp.stack([real, jax.lax.stop_gradient(fake)], axis=1)

    def loss_sum(params, pairs):
        energies = energy.energy_function(network, params, state.batch_stats)(pairs.reshape(-1, *real.shape[1:]))
        energies = energies.reshape(-1, 2)
        return _terms(energies, settings, easing).loss * (len(pairs) / len(real)), energies

    grads, energies = gradient_of_sum(loss_sum, state.params, pairs)
    terms = _terms(energies, settings, easing)
    updates, opt_state = eased(make_optimizer(settings).update(grads, state.opt_state), easing)
    params, norm, none = optax.apply_updates(state.params, updates), optax.tree.norm(grads), jnp.full((), jnp.nan)
    accept = guards.update_is_finite(terms.loss, norm, updates)
    metrics = Metrics(
        *terms, regression=none, gradient_norm=norm, moved=none, replaced=none, skipped=1.0 - accept.astype(jnp.float32)
    )
    return *guards.chosen(accept, (params, opt_state), (state.params, state.opt_state)), metrics


def _terms(energies: jax.Array, settings: TrainSettings, easing: jax.Array | float) -> objectives.ContrastiveTerms:
    return objectives.contrastive_divergence(energies[:, 0], energies[:, 1], settings.alpha / easing)


def make_step(settings: TrainSettings) -> TrainStep:
    """The update as a pure function of (state, examples): draw starts, run the chains, take the loss, update the
    weights, insert the chains' ends. A chain that is not finite starts afresh before the loss sees it, one that shows
    nothing before the buffer does.
    """
    network = network_of(settings)

    def step(state: TrainState, examples: Examples, easing: jax.Array | float = 1.0) -> tuple[TrainState, Metrics]:
        data_key, chain_root = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 1))
        draw_key, chain_key = jax.random.split(jax.random.fold_in(chain_root, state.step))
        energy_fn = energy.energy_function(network, state.params, state.batch_stats)
        starts = replay.draw(draw_key, state.buffer, settings.batch_size, settings.restart)
        ends = langevin.sample(chain_key, starts, energy_fn, chain_settings(settings))
        broken, fresh = guards.not_finite(ends), partial(fresh_starts, draw_key, ends.shape)
        fake = guards.replaced(ends, broken, fresh)
        empty = guards.saturated(fake)
        real = real_batch(data_key, examples.images, state.step, settings)
        params, opt_state, metrics = contrastive_update(state, real, fake, network, settings, easing)
        average = moved_average(state.average, params, settings.ema) if settings.ema else ()
        average = guards.chosen(metrics.skipped == 0, average, state.average)
        buffer = replay.insert(state.buffer, guards.replaced(fake, empty, fresh))
        metrics = metrics._replace(
            moved=guards.travelled(starts, fake), replaced=jnp.sum(broken | empty).astype(jnp.float32)
        )
        return TrainState(state.step + 1, params, state.batch_stats, average, opt_state, buffer), metrics

    return step

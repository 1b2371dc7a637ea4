"""One update of the paper's training: contrastive divergence with chains from the replay buffer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from bridge_ebm import data, energy, guards, langevin, objectives, parallel, replay
from bridge_ebm.accumulate import Means, gradient_of_sum
from bridge_ebm.data import Examples
from bridge_ebm.optimizer import eased, make_optimizer, moved_average
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, TrainStep, network_of


def chain_settings(settings: TrainSettings) -> langevin.LangevinSettings:
    """The chains of the training step."""
    return langevin.LangevinSettings(
        settings.langevin_steps, settings.step_size, settings.noise, settings.gradient_clip
    )


def gradient_means(settings: TrainSettings, mesh: Mesh | None = None) -> Means:
    """How the training step takes its gradients."""
    return Means(mesh, settings.microbatch, settings.remat)


def real_batch(
    key: jax.Array, images: jax.Array, step: jax.Array, settings: TrainSettings, mesh: Mesh | None = None
) -> jax.Array:
    """The real images [batch_size, H, W, 1] of update `step`, from uint8 `images` [N, H, W], with noise and a clip.

    Each epoch is a fresh permutation, as a function of (key, epoch); a last incomplete batch is left out.
    """
    order_key, noise_key = jax.random.split(key)
    index = data.batch_index(order_key, step, len(images), settings.batch_size)
    real = parallel.by_shares(lambda images, index: data.to_unit(images[index]), images, index, mesh=mesh)
    noise = jax.random.normal(jax.random.fold_in(noise_key, step), real.shape)
    return jnp.clip(real + settings.noise * parallel.constrain(noise, parallel.cut(mesh)), -1.0, 1.0)


def fresh_keys(draw_key: jax.Array, count: int) -> jax.Array:
    """Keys [count] for chains that have to start afresh, which `replay.draw` does not derive from the same."""
    return jax.random.split(jax.random.fold_in(draw_key, 1000), count)


def contrastive_update(
    state: TrainState,
    real: jax.Array,
    fake: jax.Array,
    network: nn.Module,
    settings: TrainSettings,
    easing: jax.Array | float = 1.0,
    mesh: Mesh | None = None,
) -> tuple[Any, optax.OptState, Metrics]:
    """One optimiser update from as many real as fake images [B, H, W, 1]; no gradient flows into the chains that made
    the fakes. An update that is not finite changes nothing.

    The loss is a mean over pairs of a real and a fake image, so its gradient is taken a few pairs at a time.
    """
    pairs = jnp.stack([real, jax.lax.stop_gradient(fake)], axis=1)

    def loss_sum(known, params, pairs):
        batch_stats, easing = known
        energies = energy.energy_function(network, params, batch_stats)(pairs.reshape(-1, *real.shape[1:]))
        energies = energies.reshape(-1, 2)
        return _terms(energies, settings, easing).loss * (len(pairs) / len(real)), energies

    loss = jax.tree_util.Partial(loss_sum, (state.batch_stats, easing))
    grads, energies = gradient_of_sum(loss, state.params, pairs, gradient_means(settings, mesh))
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


def make_step(settings: TrainSettings, mesh: Mesh | None = None) -> TrainStep:
    """The update as a pure function of (state, examples): draw starts, run the chains, take the loss, update the
    weights, insert the chains' ends. A chain that is not finite starts afresh before the loss sees it, one that shows
    nothing before the buffer does.

    On a mesh every device runs its share of the chains, on its share of the buffer, beside its share of the real
    pictures; what crosses between devices is the sum of the gradients, the means of energies and chains and, unless
    `settings.replay` is "own", the pictures that chains continue from.
    """
    network = network_of(settings)
    chains = chain_settings(settings)

    def run(energy_fn: langevin.EnergyFn, keys: jax.Array, starts: jax.Array) -> jax.Array:
        return langevin.run_chains(keys, starts, energy_fn, chains, at_once=settings.microbatch)

    def checked(_: None, keys: jax.Array, ends: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def fresh() -> jax.Array:
            return jax.vmap(lambda key: langevin.uniform_images(key, ends.shape[1:]))(keys)

        return guards.mended(ends, fresh)

    def step(state: TrainState, examples: Examples, easing: jax.Array | float = 1.0) -> tuple[TrainState, Metrics]:
        data_key, chain_root = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 1))
        draw_key, chain_key = jax.random.split(jax.random.fold_in(chain_root, state.step))
        energy_fn = energy.energy_function(network, state.params, state.batch_stats)
        starts = replay.draw(draw_key, state.buffer, settings.restart, settings.replay, mesh)
        keys = jax.random.split(chain_key, settings.batch_size), fresh_keys(draw_key, settings.batch_size)
        keys = parallel.constrain(keys, parallel.cut(mesh))
        ends = parallel.by_shares(run, energy_fn, keys[0], starts, mesh=mesh)
        fake, kept, bad = parallel.by_shares(checked, None, keys[1], ends, mesh=mesh)
        real = real_batch(data_key, examples.images, state.step, settings, mesh)
        params, opt_state, metrics = contrastive_update(state, real, fake, network, settings, easing, mesh)
        average = moved_average(state.average, params, settings.ema) if settings.ema else ()
        average = guards.chosen(metrics.skipped == 0, average, state.average)
        buffer = replay.insert(state.buffer, kept, settings.buffer_size, mesh)
        metrics = metrics._replace(moved=guards.travelled(starts, fake), replaced=jnp.sum(bad.astype(jnp.float32)))
        return TrainState(state.step + 1, params, state.batch_stats, average, opt_state, buffer), metrics

    return step

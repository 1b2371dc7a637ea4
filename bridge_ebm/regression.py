"""One update of gradient regression: the energy's slope between noise and a picture is told where the picture lies.

-grad E at x_t = (1 - t) x0 + t x1, noise x0 and picture x1, is regressed on (x1 - x0) c(t) (Equilibrium Matching,
Energy Matching); some paths of a class begin at a picture of another class instead of noise, or at a coarse one of its
own. No chain runs, so nothing diverges and an update is cheap. What regression never sees are the places where long
chains end up; the finish (`finish.py`) shows them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.tree_util import Partial
from optax import assignment

from bridge_ebm import coarse, contrastive, data, energy, finish, guards, langevin, objectives, parallel, replay
from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.data import Examples
from bridge_ebm.optimizer import eased, make_optimizer, moved_average
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, TrainStep, network_of

# The share of regression's paths that begin between noise and a picture of another class. After paths from noise alone
# the energy of a class has traps among the pictures of the others, and chains of the lowest energy (`compose.lowest`)
# get caught there.
CROSSED = 0.25


def starts(
    key: jax.Array, pictures: jax.Array, labels: jax.Array, told: jax.Array, no_class: int, share: float = CROSSED
) -> jax.Array:
    """Where the paths of an update begin, float32 [B, H, W, 1] in [-1, 1]: uniform noise, or for `share` of the paths
    that are `told` a class, (1 - p) noise + p picture of another class, with p = 1 - u^2 for uniform u: most of them
    close to it. Those told `no_class` begin at noise, since a chain without a class should leave no picture.

    Takes the update's `pictures` [B, H, W, 1], their `labels` and what the network is `told` of each, both int32 [B].
    A drawn picture of the told class leaves its path at noise. Ours; the papers' paths all begin at noise.
    """
    noise_key, order_key, cross_key, part_key = jax.random.split(key, 4)
    order = jax.random.permutation(order_key, len(pictures))
    foreign = (labels[order] != told) & (told != no_class)
    crossed = foreign & jax.random.bernoulli(cross_key, share, foreign.shape)
    part = crossed * (1.0 - jax.random.uniform(part_key, foreign.shape) ** 2)
    part = part[:, None, None, None]
    return (1.0 - part) * langevin.uniform_images(noise_key, pictures.shape) + part * pictures[order]


def paired_noise(noise: jax.Array, real: jax.Array, labels: jax.Array) -> jax.Array:
    """`noise` [B, H, W, 1] in the order that pairs it with `real` by minibatch optimal transport (Tong et al. 2023).

    The assignment of least total squared distance among those that keep noise within the class that the network is
    told (`labels` [B], of both): otherwise a class would see a part of the noise only, and be asked for another, while
    pictures of which it is told no class may choose among all that noise.
    """
    products = noise.reshape(len(noise), -1) @ real.reshape(len(real), -1).T
    apart = 1e6 * (labels[:, None] != labels[None, :])
    rows, columns = assignment.hungarian_algorithm(apart - products)
    return jnp.zeros_like(noise).at[columns].set(noise[rows])


def from_coarse(
    key: jax.Array, start: jax.Array, t: jax.Array, real: jax.Array, goal: jax.Array, height: int
) -> tuple[jax.Array, jax.Array]:
    """`start` [B, H, W, 1] and times `t` [B] of an update's paths, of which coarse.SHARE now run to their `goal` from
    its coarse picture: `real`, reduced to `height` (`coarse.start`).

    Such a path is the last fifth of one that begins five times as far away: there Equilibrium Matching's target is
    20 (goal - x), wherever the path began. Ours.
    """
    which_key, start_key = jax.random.split(key)
    which = jax.random.bernoulli(which_key, coarse.SHARE, t.shape)
    near = coarse.start(start_key, coarse.reduced(real, height), *real.shape[1:3])
    far = goal + 5.0 * (near - goal)
    return jnp.where(which[:, None, None, None], far, start), jnp.where(which, 0.8 + 0.2 * t, t)


def make_step(settings: TrainSettings, num_classes: int, mesh: Mesh | None = None) -> TrainStep:
    """The update as a pure function of (state, examples), with the finish's term in it from update `finish_after` on.

    The network's class `num_classes` means "no class". On a mesh every device takes the gradient of its share of the
    batch, and runs its share of the finish's chains; the pairing of noise with pictures, one small problem over the
    whole batch, every device solves for itself from the same draws, so that it needs no traffic and has one answer.
    """
    network = network_of(settings, num_classes)
    optimizer = make_optimizer(settings)

    def update(
        state: TrainState, grads: Any, metrics: Metrics, buffer: replay.ReplayBuffer, easing: jax.Array | float
    ) -> tuple[TrainState, Metrics]:
        updates, opt_state = eased(optimizer.update(grads, state.opt_state), easing)
        params = optax.apply_updates(state.params, updates)
        average = moved_average(state.average, params, settings.ema) if settings.ema else ()
        norm = optax.tree.norm(grads)
        accept = guards.update_is_finite(metrics.loss, norm, updates)
        new, old = (params, average, opt_state), (state.params, state.average, state.opt_state)
        params, average, opt_state = guards.chosen(accept, new, old)
        metrics = metrics._replace(gradient_norm=norm, skipped=1.0 - accept.astype(jnp.float32))
        return TrainState(state.step + 1, params, state.batch_stats, average, opt_state, buffer), metrics

    def regress(state: TrainState, examples: Examples, easing: jax.Array | float = 1.0) -> tuple[TrainState, Metrics]:
        grads, error, _ = _regression_gradient(state, examples, network, settings, num_classes, mesh)
        metrics = Metrics(**{name: jnp.full((), jnp.nan) for name in Metrics._fields})
        return update(state, grads, metrics._replace(loss=error, regression=error), state.buffer, easing)

    def finishing(state: TrainState, examples: Examples, easing: jax.Array | float) -> tuple[TrainState, Metrics]:
        grads, error, real = _regression_gradient(state, examples, network, settings, num_classes, mesh)
        key = jax.random.fold_in(_keys(state, settings)[1], 1)
        ours = finish.gradient(key, state, examples, real, network, settings, num_classes, mesh)
        grads = jax.tree.map(jnp.add, grads, ours.gradient)
        loss = error + settings.finish_weight * ours.contrast + settings.finish_hold * ours.left
        gap = ours.real - ours.fake
        none = jnp.full((), jnp.nan)
        metrics = Metrics(loss, none, gap, ours.real, ours.fake, error, none, ours.moved, ours.replaced, none)
        return update(state, grads, metrics, ours.buffer, easing)

    if settings.finish_after == 0:
        return regress

    def step(state: TrainState, examples: Examples, easing: jax.Array | float = 1.0) -> tuple[TrainState, Metrics]:
        return jax.lax.cond(
            state.step < settings.finish_after,
            lambda state: regress(state, examples, easing),
            lambda state: finishing(state, examples, easing),
            state,
        )

    return step


def _keys(state: TrainState, settings: TrainSettings) -> tuple[jax.Array, jax.Array]:
    """The key of the data's order, and the key of this update."""
    order_key, root = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 1))
    return order_key, jax.random.fold_in(root, state.step)


def _regression_gradient(
    state: TrainState,
    examples: Examples,
    network: nn.Module,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> tuple[Any, jax.Array, Examples]:
    """The gradient of the regression error, the error, and this update's pictures in [-1, 1] with the classes that the
    network is told.
    """
    order_key, key = _keys(state, settings)
    index = data.batch_index(order_key, state.step, len(examples.images), settings.batch_size)

    def paths(key, index, examples):
        noise_key, time_key, drop_key = jax.random.split(key, 3)
        real, labels = _pictures(jax.random.fold_in(key, 3), index, examples), examples.labels[index]
        untold = jax.random.bernoulli(drop_key, settings.unconditional if settings.conditional else 1.0, labels.shape)
        told = jnp.where(untold, num_classes, labels)
        crossed = 0.0 if settings.coarse_height else CROSSED
        start = paired_noise(starts(noise_key, real, labels, told, num_classes, crossed), real, told)
        goal = objectives.beyond(real, settings.margin, settings.ink_margin)
        t = jax.random.uniform(time_key, labels.shape)
        if settings.coarse_height:
            start, t = from_coarse(jax.random.fold_in(key, 2), start, t, real, goal, settings.coarse_height)
        return (start, goal, t, told), Examples(real, told)

    batch, real = parallel.on_every_device(paths, key, index, examples, mesh=mesh)

    def error_sum(batch_stats, params, batch):
        start, goal, t, labels = batch
        energy_fn = energy.energy_function(network, params, batch_stats, labels if settings.conditional else None)
        mixed = (1.0 - t)[:, None, None, None] * start + t[:, None, None, None] * goal
        gradient = langevin.energy_and_gradient(energy_fn, jnp.clip(mixed, -1.0, 1.0))[1]
        errors = objectives.regression_error(gradient, start, goal, t, settings.objective)
        return errors.sum() / settings.batch_size, errors

    means = contrastive.gradient_means(settings, mesh)
    error = Partial(error_sum, state.batch_stats)
    grads, errors = gradient_of_sum(error, state.params, batch, means)
    return grads, errors.mean(), real


def _pictures(key: jax.Array, index: jax.Array, examples: Examples) -> jax.Array:
    """The pictures [B, H, W, 1] at `index`, each blended with the one beside it, where that is known, in a share drawn
    from [0, 1): member widths between those of the data (local mixup, Baena et al. 2022, along the widths).
    """
    real = data.to_unit(examples.images[index])
    if examples.beside is None:
        return real
    share = jax.random.uniform(key, (len(index), 1, 1, 1))
    return (1.0 - share) * real + share * data.to_unit(examples.images[examples.beside[index]])

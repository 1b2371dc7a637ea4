"""One update of gradient regression: the energy's slope between noise and a picture is told where the picture lies.

-grad E at x_t = (1 - t) x0 + t x1, noise x0 and picture x1, is regressed on (x1 - x0) c(t) (Equilibrium Matching,
Energy Matching); some paths of a class begin at a picture of another class instead of noise, or at a coarse one of its
own. No chain runs, so nothing diverges and an update is cheap. What regression never sees are the places where long
chains end up; the finish shows them: persistent chains, and a contrastive term that raises their energy where it has
fallen below that of pictures.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.tree_util import Partial
from optax import assignment

from bridge_ebm import coarse, contrastive, data, energy, guards, langevin, objectives, parallel, replay
from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.data import Examples
from bridge_ebm.optimizer import eased, make_optimizer, moved_average
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, TrainStep, network_of

# Every other place of a class in the finish's buffer begins afresh this many times more seldom: with the settings of
# default.cfg its chains live for 2000 steps on average, those of the other places for 120. Without old chains among the
# fakes nothing keeps a picture in its place for longer than the youngest few hundred steps.
SELDOM = 16
# The share of regression's paths that begin between noise and a picture of another class. After paths from noise alone
# the energy of a class has traps among the pictures of the others, and chains of the lowest energy (`compose.lowest`)
# get caught there.
CROSSED = 0.25
# Where a training has coarse pictures, the share of regression's paths, and of the finish's fresh chains, that begin
# there; none begins at pictures of other classes then.
COARSE = 0.5


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
    """`start` [B, H, W, 1] and times `t` [B] of an update's paths, of which COARSE now run to their `goal` from its
    coarse picture: `real`, reduced to `height` (`coarse.start`).

    Such a path is the last fifth of one that begins five times as far away: there Equilibrium Matching's target is
    20 (goal - x), wherever the path began. Ours.
    """
    which_key, start_key = jax.random.split(key)
    which = jax.random.bernoulli(which_key, COARSE, t.shape)
    near = coarse.start(start_key, coarse.reduced(real, height), *real.shape[1:3])
    far = goal + 5.0 * (near - goal)
    return jnp.where(which[:, None, None, None], far, start), jnp.where(which, 0.8 + 0.2 * t, t)


def begin_afresh(key: jax.Array, places: jax.Array, count: int, num_classes: int) -> jax.Array:
    """Which of the drawn `places` int32 [B] of the finish's buffer begin afresh, bool [B]: the first `count`, but of
    the places that keep old chains one in SELDOM only.
    """
    keeps_old = (places // (num_classes + 1)) % 2 == 1
    seldom = jax.random.bernoulli(key, 1 / SELDOM, places.shape)
    return (jnp.arange(len(places)) < count) & (seldom | ~keeps_old)


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

    def finish(state: TrainState, examples: Examples, easing: jax.Array | float) -> tuple[TrainState, Metrics]:
        grads, error, real = _regression_gradient(state, examples, network, settings, num_classes, mesh)
        contrast_grads, terms, buffer, (moved, replaced) = _finish_gradient(
            state, examples, real, network, settings, num_classes, mesh
        )
        grads = jax.tree.map(jnp.add, grads, contrast_grads)
        contrast, real_mean, fake_mean = terms
        loss = error + settings.finish_weight * contrast
        gap = real_mean - fake_mean
        none = jnp.full((), jnp.nan)
        metrics = Metrics(loss, none, gap, real_mean, fake_mean, error, none, moved, replaced, none)
        return update(state, grads, metrics, buffer, easing)

    if settings.finish_after == 0:
        return regress

    def step(state: TrainState, examples: Examples, easing: jax.Array | float = 1.0) -> tuple[TrainState, Metrics]:
        return jax.lax.cond(
            state.step < settings.finish_after,
            lambda state: regress(state, examples, easing),
            lambda state: finish(state, examples, easing),
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
        goal, t = objectives.beyond(real, settings.margin), jax.random.uniform(time_key, labels.shape)
        if settings.coarse_height:
            start, t = from_coarse(jax.random.fold_in(key, 2), start, t, real, goal, settings.coarse_height)
        return (start, goal, t, told), Examples(real, told)

    batch, real = parallel.on_every_device(paths, key, index, examples, mesh=mesh)

    def error_sum(batch_stats, params, batch):
        start, goal, t, labels = batch
        energy_fn = energy.energy_function(network, params, batch_stats, *_named(labels, settings))
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


def _named(labels: jax.Array, settings: TrainSettings) -> tuple[jax.Array, ...]:
    return (labels,) if settings.conditional else ()


def _finish_gradient(
    state: TrainState,
    examples: Examples,
    real: Examples,
    network: nn.Module,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array], replay.ReplayBuffer, tuple[jax.Array, jax.Array]]:
    """The gradient of the finish's term from real pictures and the ends of persistent chains, its value with the two
    mean energies, the buffer with those ends, how far the chains moved and how many were replaced.

    Place p of the buffer is a chain of class p mod (num_classes + 1), the last of which is "no class". Real pictures
    replace a chain that is not finite before the loss sees it, and one that shows nothing before the buffer does.
    """
    pick_key, start_key, chain_key = jax.random.split(jax.random.fold_in(_keys(state, settings)[1], 1), 3)
    buffer = _started(start_key, state, examples, settings, num_classes, mesh)

    def picked(key):
        places = jax.random.permutation(key, settings.buffer_size)[: settings.finish_chains]
        return places, places % (num_classes + 1)

    places, labels = parallel.on_every_device(picked, pick_key, mesh=mesh)
    rounded = settings.replay == "rounded"
    starts = replay.take(buffer, (places,), rounded, mesh)
    run = partial(_run, state=state, network=network, settings=settings)
    arrive = partial(run, num_steps=settings.finish_arrival, spread=partial(parallel.by_shares_of_any, mesh=mesh))
    starts = _restarted(start_key, starts, places, examples, arrive, settings, num_classes, mesh)
    spread = partial(parallel.by_shares, mesh=mesh)
    ends = run(chain_key, starts, labels, num_steps=settings.langevin_steps, spread=spread)

    def checked(examples, keys, labels, ends):
        return guards.mended(ends, partial(_pictures_for, keys, labels, examples, num_classes))

    keys = contrastive.fresh_keys(start_key, settings.finish_chains)
    fake, kept, bad = parallel.by_shares(checked, examples, keys, labels, ends, mesh=mesh)

    def energies(variables, images, labels):
        return energy.energy_function(network, *variables, *_named(labels, settings))(images)

    def known(images, labels):
        variables = state.params, state.batch_stats
        return parallel.gathered(parallel.by_shares(energies, variables, images, labels, mesh=mesh), mesh)

    # The term is no sum over images, but its slope in each energy is known before the gradient is taken.
    def term(energies, labels):
        classes = labels if settings.conditional else jax.tree.map(jnp.zeros_like, labels)
        loss, *means = objectives.floored_contrast(energies, classes, settings.finish_floor, settings.finish_trim)
        if settings.finish_level:
            told = labels[0] != num_classes if settings.conditional else jnp.ones_like(labels[0], bool)
            loss += settings.finish_level * objectives.unevenness(energies[0], classes[0], told)
        return loss, means

    (loss, means), slopes = parallel.on_every_device(
        jax.value_and_grad(term, has_aux=True),
        (known(real.images, real.labels), known(fake, labels)),
        (real.labels, labels),
        mesh=mesh,
    )

    def joined(_, real, fake):
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, fake)

    # Each device joins what it has of both; their order is another on every mesh, but the gradient is a sum.
    of_real, of_fake = (real.images, real.labels, slopes[0]), (fake, labels, slopes[1])
    batch = parallel.by_shares(joined, None, of_real, of_fake, mesh=mesh)

    def weighted_sum(batch_stats, params, batch):
        images, labels, slopes = batch
        return settings.finish_weight * jnp.vdot(slopes, energies((params, batch_stats), images, labels)), ()

    weighted = Partial(weighted_sum, state.batch_stats)
    grads, _ = gradient_of_sum(weighted, state.params, batch, contrastive.gradient_means(settings, mesh))
    images = replay.put(buffer, places, kept, rounded, mesh)
    report = guards.travelled(starts, fake), jnp.sum(bad.astype(jnp.float32))
    return grads, (loss, *means), state.buffer._replace(images=images), report


def _run(
    key: jax.Array,
    starts: jax.Array,
    labels: jax.Array,
    state: TrainState,
    network: nn.Module,
    settings: TrainSettings,
    num_steps: int,
    spread: Callable[..., jax.Array],
) -> jax.Array:
    """The ends of chains from `starts` [B, H, W, 1], each of its class, `spread` over the devices."""

    chains = contrastive.chain_settings(settings)._replace(num_steps=num_steps)

    def share(variables, keys, starts, labels):
        def energy_fn(images, labels):
            return energy.energy_function(network, *variables, *_named(labels, settings))(images)

        return langevin.run_chains(keys, starts, energy_fn, chains, labels, settings.microbatch)

    keys = jax.random.split(key, len(starts))
    return jax.lax.stop_gradient(spread(share, (state.params, state.batch_stats), keys, starts, labels))


def _pictures_for(keys: jax.Array, labels: jax.Array, examples: Examples, num_classes: int) -> jax.Array:
    """Real pictures [B, H, W, 1] drawn at random, each of the class in `labels` [B]; any for "no class"."""

    def pick(key, label):
        fits = (examples.labels == label) | (label == num_classes)
        return jax.random.categorical(key, jnp.where(fits, 0.0, -jnp.inf))

    return data.to_unit(examples.images[jax.vmap(pick)(keys, labels)])


def _started(
    key: jax.Array,
    state: TrainState,
    examples: Examples,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> jax.Array:
    """The buffer's images, real pictures before the first update of the finish."""

    def fill(images):
        labels = jnp.arange(settings.buffer_size) % (num_classes + 1)
        keys = jax.random.split(key, settings.buffer_size)

        def share(examples, keys, labels):
            return _pictures_for(keys, labels, examples, num_classes)

        return parallel.by_shares(share, examples, keys, labels, mesh=mesh)

    return jax.lax.cond(state.step == settings.finish_after, fill, lambda images: images, state.buffer.images)


def _begun(
    key: jax.Array,
    labels: jax.Array,
    examples: Examples,
    settings: TrainSettings,
    num_classes: int,
    shape: tuple[int, ...],
) -> jax.Array:
    """Where fresh chains of the classes `labels` [B] begin, [B, *shape]: at noise, or COARSE of them at coarse pictures
    where a training has them.
    """
    noise = langevin.uniform_images(key, (len(labels), *shape))
    if not settings.coarse_height:
        return noise
    which_key, pick_key, start_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    pictures = _pictures_for(jax.random.split(pick_key, len(labels)), labels, examples, num_classes)
    near = coarse.start(start_key, coarse.reduced(pictures, settings.coarse_height), *shape[:2])
    which = jax.random.bernoulli(which_key, COARSE, labels.shape)
    return jnp.where(which[:, None, None, None], near, noise)


def _restarted(
    key: jax.Array,
    starts: jax.Array,
    places: jax.Array,
    examples: Examples,
    arrive: Callable[..., jax.Array],
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> jax.Array:
    """`starts` with the first `restart` of them begun afresh: half at real pictures, half at the end of a chain from
    noise. `places` are drawn at random, so the first are any; of those for old chains one in SELDOM begins afresh.
    """
    count = round(settings.restart * settings.finish_chains)
    from_noise = count // 2
    noise_key, chain_key, pick_key, seldom_key = jax.random.split(key, 4)
    labels = places % (num_classes + 1)

    def chosen(pick_key, labels, examples):
        keys = jax.random.split(pick_key, count - from_noise)
        return _pictures_for(keys, labels[from_noise:count], examples, num_classes)

    def from_start(arrived, pictures):
        return jnp.pad(jnp.concatenate([arrived, pictures]), ((0, len(starts) - count), (0, 0), (0, 0), (0, 0)))

    begun_for = partial(_begun, settings=settings, num_classes=num_classes, shape=starts.shape[1:])
    begun = parallel.on_every_device(begun_for, noise_key, labels[:from_noise], examples, mesh=mesh)
    arrived = arrive(chain_key, parallel.constrain(begun, parallel.whole(mesh)), labels[:from_noise])
    pictures = parallel.on_every_device(chosen, pick_key, labels, examples, mesh=mesh)
    fresh = parallel.on_every_device(from_start, arrived, pictures, mesh=mesh)
    begins = partial(begin_afresh, count=count, num_classes=num_classes)
    afresh = parallel.on_every_device(begins, seldom_key, places, mesh=mesh)
    return parallel.constrain(jnp.where(afresh[:, None, None, None], fresh, starts), parallel.cut(mesh))

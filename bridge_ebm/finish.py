"""The finish of a gradient regression: a contrastive term at the ends of persistent chains.

Regression never sees the places where long chains end up. Here chains go on from update to update in a buffer, each of
its class, and the term raises the energy at their ends where it has fallen below that of pictures.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.tree_util import Partial

from bridge_ebm import coarse, contrastive, data, energy, guards, hold, langevin, objectives, parallel, replay
from bridge_ebm.accumulate import gradient_of_sum
from bridge_ebm.data import Examples
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import TrainState

# Every other place of a class in the finish's buffer begins afresh this many times more seldom: with the settings of
# default.cfg its chains live for 2000 steps on average, those of the other places for 120. Without old chains among the
# fakes nothing keeps a picture in its place for longer than the youngest few hundred steps.
SELDOM = 16


class Finish(NamedTuple):
    """The finish's part of an update: the `gradient` of its terms in the weights, the contrastive one, `contrast`, with
    the mean energies of `real` and `fake` pictures, the error where chains `left` their pictures (`hold.gradient`; 0
    where nothing holds them), the `buffer` with the ends of the chains, how far these `moved` (`guards.travelled`) and
    how many were `replaced`.
    """

    gradient: Any
    contrast: jax.Array
    real: jax.Array
    fake: jax.Array
    left: jax.Array
    buffer: replay.ReplayBuffer
    moved: jax.Array
    replaced: jax.Array


class _Chains(NamedTuple):
    """Chains of an update at `places` int32 [B] of the `buffer`'s images, of classes `labels` [B]: their `starts`
    [B, H, W, 1], where the chains began, `origins` (of use only where the settings hold pictures), ends for the loss,
    `fake`, and for the buffer, `kept`, and which are `bad`, bool [B]: replaced.
    """

    buffer: jax.Array
    places: jax.Array
    labels: jax.Array
    starts: jax.Array
    origins: jax.Array
    fake: jax.Array
    kept: jax.Array
    bad: jax.Array


def begin_afresh(key: jax.Array, places: jax.Array, count: int, num_classes: int) -> jax.Array:
    """Which of the drawn `places` int32 [B] of the finish's buffer begin afresh, bool [B]: the first `count`, but of
    the places that keep old chains one in SELDOM only.
    """
    keeps_old = (places // (num_classes + 1)) % 2 == 1
    seldom = jax.random.bernoulli(key, 1 / SELDOM, places.shape)
    return (jnp.arange(len(places)) < count) & (seldom | ~keeps_old)


def gradient(
    key: jax.Array,
    state: TrainState,
    examples: Examples,
    real: Examples,
    network: nn.Module,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> Finish:
    """The finish's part of an update, from real pictures and the ends of persistent chains.

    Takes the `key` of this use, the training's `examples`, and this update's `real` pictures [B, H, W, 1] in [-1, 1]
    with the classes that the network is told (Balcerak et al., "Energy Matching", 2025; `objectives.floored_contrast`).
    Place p of the buffer is a chain of class p mod (num_classes + 1), the last of which is "no class". Real pictures
    replace a chain that is not finite before the loss sees it, and one that shows nothing before the buffer does.
    """
    chains = _chains_of_update(key, state, examples, network, settings, num_classes, mesh)
    fake = Examples(chains.fake, chains.labels)
    (contrast, means), slopes = _contrast(state, real, fake, network, settings, num_classes, mesh)
    grads, left = _weighted_gradient(state, real, fake, slopes, network, settings, mesh), jnp.zeros(())
    put = partial(replay.put, rounded=settings.replay == "rounded", mesh=mesh)
    images = put(chains.buffer, chains.places, chains.kept)
    if settings.holds:
        holding, left = hold.gradient(state, chains.fake, chains.origins, chains.labels, network, settings, mesh)
        grads = jax.tree.map(jnp.add, grads, holding)
        images = put(images, chains.places + settings.buffer_size, chains.origins)
    moved, replaced = guards.travelled(chains.starts, chains.fake), jnp.sum(chains.bad.astype(jnp.float32))
    return Finish(grads, contrast, *means, left, state.buffer._replace(images=images), moved, replaced)


def _chains_of_update(
    key: jax.Array,
    state: TrainState,
    examples: Examples,
    network: nn.Module,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> _Chains:
    """Some chains of the buffer, drawn at random, run on from where they are, or begun afresh."""
    pick_key, start_key, chain_key = jax.random.split(key, 3)
    buffer = _started(start_key, state, examples, settings, num_classes, mesh)

    def picked(key):
        places = jax.random.permutation(key, settings.buffer_size)[: settings.finish_chains]
        return places, places % (num_classes + 1)

    places, labels = parallel.on_every_device(picked, pick_key, mesh=mesh)
    take = partial(replay.take, rounded=settings.replay == "rounded", mesh=mesh)
    starts = take(buffer, (places,))
    origins = take(buffer, (places + settings.buffer_size,)) if settings.holds else starts
    run = partial(_run, state=state, network=network, settings=settings)
    arrive = partial(run, num_steps=settings.finish_arrival, spread=partial(parallel.by_shares_of_any, mesh=mesh))
    starts, origins = _restarted(start_key, (starts, origins), places, examples, arrive, settings, num_classes, mesh)
    spread = partial(parallel.by_shares, mesh=mesh)
    ends = run(chain_key, starts, labels, num_steps=settings.langevin_steps, spread=spread)

    def checked(examples, keys, labels, ends):
        return guards.mended(ends, partial(_pictures_for, keys, labels, examples, num_classes))

    keys = contrastive.fresh_keys(start_key, settings.finish_chains)
    fake, kept, bad = parallel.by_shares(checked, examples, keys, labels, ends, mesh=mesh)
    origins = jnp.where(bad[:, None, None, None], kept, origins)
    return _Chains(buffer, places, labels, starts, origins, fake, kept, bad)


def _contrast(
    state: TrainState,
    real: Examples,
    fake: Examples,
    network: nn.Module,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> tuple[tuple[jax.Array, tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]]:
    """The finish's term with the mean energies of real and fake pictures, and its slope in the energy of each, [B] and
    [B].

    The term is no sum over images, but these slopes are known before its gradient in the weights is taken.
    """

    def known(those: Examples) -> jax.Array:
        variables, energies = (state.params, state.batch_stats), partial(_energies, network, settings)
        return parallel.gathered(parallel.by_shares(energies, variables, those.images, those.labels, mesh=mesh), mesh)

    def term(energies, labels):
        classes = labels if settings.conditional else jax.tree.map(jnp.zeros_like, labels)
        floor, trim = settings.finish_floor, settings.finish_trim
        loss, real_mean, fake_mean = objectives.floored_contrast(energies, classes, floor, trim)
        if settings.finish_level:
            told = labels[0] != num_classes if settings.conditional else jnp.ones_like(labels[0], bool)
            loss += settings.finish_level * objectives.unevenness(energies[0], classes[0], told)
        return loss, (real_mean, fake_mean)

    value_and_slopes = jax.value_and_grad(term, has_aux=True)
    both = (known(real), known(fake)), (real.labels, fake.labels)
    value, slopes = parallel.on_every_device(value_and_slopes, *both, mesh=mesh)
    return value, slopes


def _weighted_gradient(
    state: TrainState,
    real: Examples,
    fake: Examples,
    slopes: tuple[jax.Array, jax.Array],
    network: nn.Module,
    settings: TrainSettings,
    mesh: Mesh | None,
) -> Any:
    """The gradient in the weights of `finish_weight` times the energies of real and fake pictures, each with its slope:
    that of the term.
    """

    def joined(_, real, fake):
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, fake)

    # Each device joins what it has of both; their order is another on every mesh, but the gradient is a sum.
    of_real, of_fake = (real.images, real.labels, slopes[0]), (fake.images, fake.labels, slopes[1])
    batch = parallel.by_shares(joined, None, of_real, of_fake, mesh=mesh)

    def weighted_sum(batch_stats, params, batch):
        images, labels, slopes = batch
        energies = _energies(network, settings, (params, batch_stats), images, labels)
        return settings.finish_weight * jnp.vdot(slopes, energies), ()

    weighted = Partial(weighted_sum, state.batch_stats)
    return gradient_of_sum(weighted, state.params, batch, contrastive.gradient_means(settings, mesh))[0]


def _energies(
    network: nn.Module, settings: TrainSettings, variables: tuple[Any, Any], images: jax.Array, labels: jax.Array
) -> jax.Array:
    """Energies [B] of images [B, H, W, 1], each as of its class if the network is told."""
    return energy.energy_function(network, *variables, labels if settings.conditional else None)(images)


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
        energy_fn = partial(_energies, network, settings, variables)
        return langevin.run_chains(keys, starts, energy_fn, chains, labels, settings.microbatch)

    keys = jax.random.split(key, len(starts))
    return jax.lax.stop_gradient(spread(share, (state.params, state.batch_stats), keys, starts, labels))


def _pictures_for(keys: jax.Array, labels: jax.Array, examples: Examples, num_classes: int) -> jax.Array:
    """Real pictures [B, H, W, 1] drawn at random, each of the class in `labels` [B]; any for "no class", and for a
    class that has none (only a network that is told no class may meet such).
    """

    def pick(key, label):
        fits = (examples.labels == label) | (label == num_classes)
        return jax.random.categorical(key, jnp.where(fits | ~fits.any(), 0.0, -jnp.inf))

    return data.to_unit(examples.images[jax.vmap(pick)(keys, labels)])


def _started(
    key: jax.Array,
    state: TrainState,
    examples: Examples,
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> jax.Array:
    """The buffer's images, real pictures before the first update of the finish; where it holds, the same again, from
    which its chains begin.
    """

    def of_places(key):
        places = jnp.arange(len(state.buffer.images)) % settings.buffer_size
        return jax.random.split(key, settings.buffer_size)[places], places % (num_classes + 1)

    def fill(images):
        keys, labels = parallel.on_every_device(of_places, key, mesh=mesh)

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
    """Where fresh chains of the classes `labels` [B] begin, [B, *shape]: at noise, or where a training has coarse
    pictures, coarse.SHARE of them at those.
    """
    noise = langevin.uniform_images(key, (len(labels), *shape))
    if not settings.coarse_height:
        return noise
    which_key, pick_key, start_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    pictures = _pictures_for(jax.random.split(pick_key, len(labels)), labels, examples, num_classes)
    near = coarse.start(start_key, coarse.reduced(pictures, settings.coarse_height), *shape[:2])
    which = jax.random.bernoulli(which_key, coarse.SHARE, labels.shape)
    return jnp.where(which[:, None, None, None], near, noise)


def _restarted(
    key: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    places: jax.Array,
    examples: Examples,
    arrive: Callable[..., jax.Array],
    settings: TrainSettings,
    num_classes: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """The chains that are `kept` and where they began, [B, H, W, 1] each, with the first `restart` of them begun
    afresh: half at real pictures, half at the end of a chain from noise, which counts as begun at a picture that is all
    white, near no bridge. `places` are drawn at random, so the first are any; of those for old chains one in SELDOM
    begins afresh.
    """
    starts, origins = kept
    count = settings.fresh_chains
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
    begun_at = parallel.on_every_device(from_start, jnp.ones_like(arrived), pictures, mesh=mesh)
    begins = partial(begin_afresh, count=count, num_classes=num_classes)
    afresh = parallel.on_every_device(begins, seldom_key, places, mesh=mesh)
    here = afresh[:, None, None, None]
    both = jnp.where(here, fresh, starts), jnp.where(here, begun_at, origins)
    return parallel.constrain(both, parallel.cut(mesh))

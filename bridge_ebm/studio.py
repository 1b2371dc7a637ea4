"""A model made ready for composing: its energies on the area on which its chains run, where they begin, and a walk.

A model of half pictures runs all chains on left halves, unless what is held of the pictures is not symmetric.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from bridge_ebm import bridges, compose, data, langevin, mirror, samplers
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.models import Model

FRAMES = 6  # pictures kept of every chain, from the start to the end
CLEARING = 12  # last steps of every chain, in which ink has a price
HAZE = 4 / 255  # of the grey range, that those steps take from a pixel at most


class Held(NamedTuple):
    """Pixels that every design must have: bool `mask` [H, W, 1] and `picture` [H, W, 1] in [-1, 1].

    For `complete` both are [N, H, W, 1], one for each picture.
    """

    mask: np.ndarray
    picture: np.ndarray


class Studio(NamedTuple):
    """A model made ready: its energies on the area on which chains run, a left half or a whole picture.

    `energies` are those of `subtypes`, and then the unconditional one. `levels` are the energies of real pictures of
    each sub-type, `drop` how much higher noise is (0 where they are not all the paper's sub-types). `projection` keeps
    the pixels held; `buffer` holds pictures of a training [N, h, w, 1] on that area, for the way "restart" (none:
    empty). `cascade` is the model itself where its chains begin at pictures of a coarse one, None where at noise.
    """

    subtypes: tuple[str, ...]
    energies: tuple[Partial, ...]
    levels: np.ndarray
    drop: float
    half: bool
    height: int
    width: int
    settings: LangevinSettings
    projection: Partial
    held: Held | None
    buffer: np.ndarray
    cascade: Model | None

    @property
    def area(self) -> tuple[int, int, int]:
        """Shape of the images of a chain."""
        return self.height, self.width // 2 if self.half else self.width, 1


def open_studio(model: Model, held: Held | None = None, buffer: np.ndarray | None = None) -> Studio:
    """A model's energies, made ready. Raises ValueError for a model without sub-types.

    Pixels held that are not symmetric make a model of halves run on whole pictures. `buffer` float [N, h, w, 1] holds
    what the model's training saw pictures as: whole or (a model of halves) halves.
    """
    known = model.settings.subtypes
    if not known:
        raise ValueError("composition needs a model that knows sub-types; train with --conditional")
    half = model.settings.mirror and (held is None or _is_symmetric(held))
    plain = model.without_levels()
    energy = plain.half_energy if half else plain.energy
    energies = tuple(cast(Partial, energy(name)) for name in (*known, None))
    projection = Partial(_free)
    if held is not None:
        width = model.width // 2 if half else model.width
        projection = compose.held(held.mask[..., :width, :], held.picture[..., :width, :])
    if buffer is None:
        buffer = np.zeros((0, model.height, model.width, 1), np.float32)
    elif model.settings.mirror and not half:
        buffer = np.asarray(mirror.unfold(jnp.asarray(buffer)))
    studio = Studio(
        subtypes=known,
        energies=energies,
        levels=np.zeros(len(known) + 1),
        drop=0.0,
        half=half,
        height=model.height,
        width=model.width,
        settings=sampler_of(model),
        projection=projection,
        held=held,
        buffer=buffer,
        cascade=None if model.coarse is None else model,
    )
    return _measured(studio) if set(known) <= set(bridges.SUBTYPES) else studio


def sampler_of(model: Model) -> LangevinSettings:
    """The model's sampler without its tolerance, which is for one energy and pictures whose pixels are all free."""
    return model.settings.langevin._replace(tolerance=0.0)


def on_device(studio: Studio, device: jax.Device) -> Studio:
    """The studio with its arrays on `device`."""
    energies, projection = _placed((studio.energies, studio.projection), device)
    return studio._replace(energies=energies, projection=projection, cascade=_moved(studio.cascade, device))


def _placed(tree: Any, device: jax.Device) -> Any:
    """The tree on `device`, what is one array in it still one: by that `compose.one_of` knows what energies share."""
    distinct = {id(leaf): leaf for leaf in jax.tree.leaves(tree)}
    placed = {key: jax.device_put(leaf, device) for key, leaf in distinct.items()}
    return jax.tree.map(lambda leaf: placed[id(leaf)], tree)


def _moved(model: Model | None, device: jax.Device) -> Model | None:
    """The model, and the coarse one that its chains begin at, on `device`."""
    if model is None:
        return None
    params, batch_stats = jax.device_put((model.params, model.batch_stats), device)
    return replace(model, params=params, batch_stats=batch_stats, coarse=_moved(model.coarse, device))


def _free(images: jax.Array) -> jax.Array:
    return images


def _is_symmetric(held: Held) -> bool:
    same_mask = bool((held.mask == held.mask[..., ::-1, :]).all())
    return same_mask and bool((held.picture == held.picture[..., ::-1, :])[held.mask].all())


def _measured(studio: Studio) -> Studio:
    """The studio with the energies of real pictures and of noise."""
    middle = bridges.WIDTHS // 2
    real = [bridges.render(name, middle, studio.height, studio.width) for name in studio.subtypes]
    images = jnp.asarray(data.to_unit(np.stack([*real, real[0]])))[:, :, : studio.area[1]]
    noise = langevin.uniform_images(jax.random.key(0), images.shape)
    index = jnp.arange(len(studio.energies))
    mixed = compose.one_of(studio.energies, index)
    levels, high = (np.asarray(compose.energies_under(mixed, one)) for one in (images, noise))
    return studio._replace(levels=levels, drop=float(np.abs(high - levels).mean()))


_constrained = jax.jit(samplers.constrained, static_argnames=("settings", "frames"))


def frame_numbers(studio: Studio) -> tuple[int, ...]:
    """Numbers of the frames kept of a chain, most of them early, where it moves fastest; the last is its end."""
    last = studio.settings.num_steps - 1
    return (*(round(last * (k / (FRAMES - 2)) ** 1.7) for k in range(FRAMES - 1)), last + CLEARING)


def run_chains(studio: Studio, key: jax.Array, starts: jax.Array, energy: Partial, projection: Partial) -> np.ndarray:
    """Frames [F, B, h, w, 1] of chains from `starts`, the last steps without noise and with a price on ink."""
    steps = frame_numbers(studio)
    walk = _constrained(key, starts, energy, studio.settings, projection, steps[:-1])
    price = compose.ink(2 * HAZE / (CLEARING * studio.settings.step_size))
    settings = studio.settings._replace(num_steps=CLEARING, noise=0.0)
    end = _constrained(key, walk.images, compose.conjunction([energy, price]), settings, projection)
    return np.concatenate([walk.frames, end.images[None]])


def starts_of(studio: Studio, key: jax.Array, names: Sequence[str]) -> jax.Array:
    """Where chains of the sub-types `names` begin, one for each [N, h, w, 1]: at noise, whatever their names, or at
    pictures of the coarse model, every sub-type from noise of its own (the first as if it were alone).
    """
    if studio.cascade is None:
        return langevin.uniform_images(key, (len(names), *studio.area))
    starts = np.empty((len(names), *studio.area), np.float32)
    for number, name in enumerate(dict.fromkeys(names)):
        mine = [k for k, one in enumerate(names) if one == name]
        own_key = key if number == 0 else jax.random.fold_in(key, 1000 + number)
        starts[mine] = studio.cascade.start(own_key, len(mine), name)[:, :, : studio.area[1]]
    return jnp.asarray(starts)


def whole_pictures(studio: Studio, areas: np.ndarray) -> np.ndarray:
    """Whole pictures [..., H, W, 1] of areas [..., h, w, 1]: symmetric ones of left halves."""
    return np.concatenate([areas, areas[..., ::-1, :]], axis=-2) if studio.half else areas


def with_held(studio: Studio, frames: np.ndarray) -> np.ndarray:
    """Pictures [..., H, W, 1] with the held pixels as they must be: a sum of regions may round them."""
    return frames if studio.held is None else np.where(studio.held.mask, studio.held.picture, frames)

"""Data sets: drawn by the program or read from a folder, their held-out parts, and the scaling to [-1, 1].

Pictures stay uint8 (bright bridge on black) until a batch is needed; `to_unit` makes the float batch of it.
"""

import itertools
import os
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from bridge_ebm import bridges, mirror, parallel, pictures, recipes
from bridge_ebm.errors import InputError

PARTS = ("train", "validation", "test", "all")
# base % 8: of 16 base pictures 2 and 10 validate, 6 and 14 test, the other 12 train
_VALIDATION = 2
_TEST = 6
Array = TypeVar("Array", np.ndarray, jax.Array)


class Dataset(NamedTuple):
    """Pictures with their sub-types.

    `images` uint8 [N, H, W], bright on black; `labels` int32 [N], positions in `subtypes`; `base` int32 [N], which base
    picture of its sub-type each is an augmented copy of.
    """

    images: np.ndarray
    labels: np.ndarray
    base: np.ndarray
    subtypes: tuple[str, ...]


class Examples(NamedTuple):
    """What a training step reads: `images` [N, H, W] uint8 (a batch of them: [B, H, W, 1] in [-1, 1]) and `labels`
    int32 [N]; `beside` int32 [N], the picture that each is blended with (`neighbours`), or None.
    """

    images: jax.Array
    labels: jax.Array
    beside: jax.Array | None = None


def procedural(
    height: int,
    width: int,
    recipe: str = "paper",
    per_type: int = 1200,
    seed: int = 0,
    progress: bool = False,
) -> Dataset:
    """Draw `per_type` pictures [height, width] of each of the eight sub-types, sub-type by sub-type.

    `recipe` "paper": 16 member widths x 75 rotations and scalings, an evenly spread part of them when `per_type` is
    below 1200 (`recipes.paper_plan`); the seed plays no part. "varied": free dimensions, and every picture its own
    base. The same arguments give the same bytes. Raises `InputError` on anything out of range.
    """
    for name, value in (("height", height), ("width", width), ("per_type", per_type)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if recipe == "paper":
        images, base = recipes.paper_pictures(height, width, per_type, progress)
    elif recipe == "varied":
        images, base = recipes.varied_pictures(height, width, per_type, seed, progress)
    else:
        raise InputError(f"no recipe {recipe!r}: use paper or varied")
    labels = np.repeat(np.arange(len(bridges.SUBTYPES), dtype=np.int32), per_type)
    return Dataset(images, labels, np.tile(base, len(bridges.SUBTYPES)), bridges.SUBTYPES)


def load_folder(path: str | os.PathLike[str], height: int, width: int, progress: bool = False) -> Dataset:
    """Read a folder of pictures with one sub-folder per sub-type, resized to [height, width].

    Sub-folders named like ours or like the author's come first, in our order; the others follow by name. Formats,
    polarity and limits: `pictures.read_picture`. `base` comes from the dataset.json that make_dataset.py writes;
    without one, the pictures of a sub-type in natural order of their names form 16 contiguous blocks, each taken for
    the augmented copies of one base picture. Raises `InputError`, which names the file and the remedy.
    """
    for name, value in (("height", height), ("width", width)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    root = Path(path).expanduser()
    folders = pictures.find_pictures(root)
    files = [file for group in folders.values() for file in group]
    images = pictures.read_pictures(files, height, width, progress)
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(group) for group in folders.values()])
    listed = pictures.listed_bases(root)
    if listed is None:
        blocks = [np.arange(len(group)) * bridges.WIDTHS // len(group) for group in folders.values()]
        base = np.concatenate(blocks).astype(np.int32)
    else:
        base = np.array([pictures.base_of(file, root, listed) for file in files], np.int32)
    return Dataset(images, labels, base, tuple(folders))


def split(dataset: Dataset, part: str) -> Dataset:
    """The part "train", "validation", "test" or "all" of a data set; whole base pictures lie in one part.

    Of every eight base pictures six train, one validates, one tests (base % 8 of 2 and of 6). Raises `InputError` on
    another part, or when the part holds no picture.
    """
    if part not in PARTS:
        raise InputError(f"no part {part!r} of a data set: use one of {', '.join(PARTS)}")
    if part == "all":
        return dataset
    place = dataset.base % 8
    held = {"validation": place == _VALIDATION, "test": place == _TEST}
    chosen = held.get(part, (place != _VALIDATION) & (place != _TEST))
    if not chosen.any():
        raise InputError(
            f"the {part} part of these {len(dataset.images)} pictures is empty: use more pictures, or --split=all"
        )
    return Dataset(dataset.images[chosen], dataset.labels[chosen], dataset.base[chosen], dataset.subtypes)


def to_unit(images: Array) -> Array:
    """Uint8 [..., H, W] to float32 [..., H, W, 1] in [-1, 1]: bridge +1, empty -1. For NumPy and JAX arrays."""
    return cast(Array, ((images.astype(np.float32) - 127.5) / 127.5)[..., None])


def to_uint8(images: Array) -> Array:
    """Float [..., H, W, 1] in [-1, 1] to uint8 [..., H, W], rounded and clipped. For NumPy and JAX arrays."""
    if images.shape[-1] != 1:
        raise ValueError(f"pictures of shape {images.shape}: the last axis must be the one channel")
    return cast(Array, (images * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)[..., 0])


def epoch_order(key: jax.Array, epoch: jax.Array | int, size: int) -> jax.Array:
    """The order of `size` pictures in an epoch, int32 [size]: a pure function of key and epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), size)


def batch_index(key: jax.Array, step: jax.Array, size: int, batch_size: int) -> jax.Array:
    """Which of `size` pictures update `step` reads, int32 [batch_size]: whole batches of each epoch's order."""
    per_epoch = size // batch_size
    order = epoch_order(key, step // per_epoch, size)
    return jax.lax.dynamic_slice_in_dim(order, step % per_epoch * batch_size, batch_size)


def mirror_halves(dataset: Dataset) -> Dataset:
    """Both halves (`mirror.halves`) of the pictures that mirror onto themselves; raises `InputError` if none does."""
    chosen = symmetric_part(dataset)
    images = np.ascontiguousarray(mirror.halves(chosen.images))
    return Dataset(images, np.tile(chosen.labels, 2), np.tile(chosen.base, 2), chosen.subtypes)


def symmetric_part(dataset: Dataset) -> Dataset:
    """The pictures that mirror onto themselves, in the paper's recipe those not rotated, moved so that they do so about
    their middle (`mirror.centred`): its V piers, which at 48 x 192 stand .8 columns off, by one. Raises `InputError`
    if none does.
    """
    keep, images = mirror.centred(dataset.images)
    if not keep.any():
        raise InputError("--mirror: none of these pictures is mirror symmetric; train with --nomirror")
    return dataset._replace(images=images, labels=dataset.labels[keep], base=dataset.base[keep])


def centred(dataset: Dataset) -> Dataset:
    """All pictures, those that mirror onto themselves moved to their middle as in `symmetric_part`."""
    keep, moved = mirror.centred(dataset.images)
    images = dataset.images.copy()
    images[keep] = moved
    return dataset._replace(images=images)


def neighbours(dataset: Dataset) -> np.ndarray:
    """For every picture the nearest one of its sub-type whose base picture is the next, int32 [N].

    In the paper's recipe the same bridge in the next member width that is there; a picture between the two is a bridge
    of a width between theirs. A picture is its own neighbour where there is none of a next base, or none that is
    apart by less than a quarter of its ink (as squares; at most .21 in the paper's recipe): two drawings that differ
    in more would blend to a ghost.
    """
    found = np.arange(len(dataset.images), dtype=np.int32)
    for label in np.unique(dataset.labels):
        bases = np.unique(dataset.base[dataset.labels == label])
        groups = [np.flatnonzero((dataset.labels == label) & (dataset.base == base)) for base in bases]
        for mine, others in itertools.pairwise(groups):
            # In float64 these sums of integers are exact: every machine finds the same neighbours.
            here, there = (dataset.images[group].reshape(len(group), -1).astype(np.float64) for group in (mine, others))
            ink, apart = (here**2).sum(1), (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
            close = apart.min(1) < ink / 4
            found[mine[close]] = others[apart.argmin(1)[close]]
    return found


def examples(dataset: Dataset, mesh: Mesh | None = None, blend: bool = False) -> Examples:
    """The data set on the device, or whole on every device of `mesh`; with `blend` also each picture's neighbour."""
    beside = parallel.copied(neighbours(dataset), mesh) if blend else None
    return Examples(parallel.copied(dataset.images, mesh), parallel.copied(dataset.labels, mesh), beside)

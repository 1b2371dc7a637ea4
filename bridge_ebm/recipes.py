"""The two recipes that turn the eight sub-types into data sets: the paper's augmentation, and free variation.

The paper's (arXiv 2401.17657, section 2.1): 16 member widths x 3 rotations x 5 horizontal x 5 vertical scales.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from bridge_ebm import bridges, raster, varied
from bridge_ebm.errors import InputError

ROTATIONS = (-0.3, 0.0, 0.3)  # degrees about the centre
SCALES_X = (1.0, 1.012, 1.025, 1.038, 1.05)
SCALES_Y = (1.0, 1.025, 1.05, 1.075, 1.1)
_AUGMENTATIONS = tuple(itertools.product(ROTATIONS, SCALES_X, SCALES_Y))  # 75
PER_TYPE = bridges.WIDTHS * len(_AUGMENTATIONS)  # 1200
_PLAIN = _AUGMENTATIONS.index((0.0, 1.0, 1.0))
_STRIDE = 46  # 75 / golden ratio, coprime to 75: any first few augmentations are spread over all three axes
_CHUNK = 50


class Variant(NamedTuple):
    """One picture of the paper's recipe: member width index, augmentation index, and what that one does."""

    base: int
    augmentation: int
    rotation: float
    scale_x: float
    scale_y: float

    def name(self) -> str:
        """File name without suffix; sorts as the plan does."""
        return (
            f"w{self.base:02d}_a{self.augmentation:02d}_rot{self.rotation:+.1f}_x{self.scale_x:.3f}_y{self.scale_y:.3f}"
        )


def paper_plan(per_type: int) -> list[Variant]:
    """The `per_type` pictures of every sub-type, by member width, then augmentation.

    All 1200, or an even part: the 16 base pictures first, then for all widths one more augmentation after the other,
    in strides of 46 through the 75; a last incomplete round takes evenly spaced widths. Raises `InputError`
    outside 1 to 1200.
    """
    if not 1 <= per_type <= PER_TYPE:
        raise InputError(f"per_type={per_type}: the paper recipe has 1 to {PER_TYPE} pictures per sub-type")
    chosen = []
    for k in range(per_type):
        turn, place = divmod(k, bridges.WIDTHS)
        many = min(bridges.WIDTHS, per_type - turn * bridges.WIDTHS)  # widths in this turn, the last one included
        chosen.append((place * bridges.WIDTHS // many, (_PLAIN + _STRIDE * turn) % len(_AUGMENTATIONS)))
    return [Variant(base, index, *_AUGMENTATIONS[index]) for base, index in sorted(chosen)]


def file_names(recipe: str, per_type: int) -> list[str]:
    """File names of the pictures of one sub-type, in their order."""
    if recipe == "paper":
        return [f"{variant.name()}.png" for variant in paper_plan(per_type)]
    return [f"v{index:05d}.png" for index in range(per_type)]


def _scaled(image: Image.Image, scale_x: float, scale_y: float) -> Image.Image:
    """`image` scaled up about its centre and cropped back to its size, in one resampling."""
    width, height = image.size
    half_x, half_y = width / scale_x / 2, height / scale_y / 2
    box = (width / 2 - half_x, height / 2 - half_y, width / 2 + half_x, height / 2 + half_y)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def augmented(picture: np.ndarray, variants: Sequence[Variant]) -> np.ndarray:
    """Rotated, scaled and cropped copies of one picture: uint8 [H, W] to uint8 [len(variants), H, W]."""
    image = Image.fromarray(picture)
    turned = {angle: image.rotate(angle, Image.Resampling.BICUBIC) for angle in {v.rotation for v in variants}}
    return np.stack([np.asarray(_scaled(turned[v.rotation], v.scale_x, v.scale_y)) for v in variants])


def _run(jobs: Sequence[Callable[[], int]], total: int, workers: int, progress: bool) -> None:
    """Run the jobs in `workers` threads; each returns how many pictures it made."""
    with (
        tqdm(total=total, desc="drawing", unit="picture", disable=not progress) as bar,
        ThreadPoolExecutor(max_workers=workers) as pool,
    ):
        for done in pool.map(lambda job: job(), jobs):
            bar.update(done)


def paper_pictures(height: int, width: int, per_type: int, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The paper's data set: uint8 [8 per_type, height, width] by sub-type, and the base indices int32 [per_type].

    Augmented at 128 x 512, or at the size asked for where that is larger, then area-averaged.
    """
    plan = paper_plan(per_type)
    base = np.array([variant.base for variant in plan], np.int32)
    images = np.empty((len(bridges.SUBTYPES), per_type, height, width), np.uint8)
    scale = bridges.drawn_scale(height, width)
    full = (round(raster.HEIGHT * scale), round(raster.WIDTH * scale))

    def job(kind: int, which: int) -> Callable[[], int]:
        def run() -> int:
            mine = np.flatnonzero(base == which)
            picture = bridges.render(bridges.SUBTYPES[kind], which, *full)
            copies = augmented(picture, [plan[k] for k in mine])
            images[kind, mine] = raster.area_average(copies, height, width)
            return len(mine)

        return run

    jobs = [job(kind, int(which)) for kind in range(len(images)) for which in np.unique(base)]
    _run(jobs, len(images) * per_type, min(os.cpu_count() or 1, 16), progress)
    return images.reshape(-1, height, width), base


def varied_pictures(
    height: int, width: int, per_type: int, seed: int, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The varied data set: uint8 [8 per_type, height, width] by sub-type, and the base indices int32 [per_type].

    Picture k of a sub-type depends on the seed, the sub-type and k alone. Raises `InputError` on a negative seed.
    """
    if seed < 0:
        raise InputError(f"seed={seed}: must not be negative")
    images = np.empty((len(bridges.SUBTYPES), per_type, height, width), np.uint8)

    def job(kind: int, first: int) -> Callable[[], int]:
        def run() -> int:
            stop = min(first + _CHUNK, per_type)
            images[kind, first:stop] = varied.render(bridges.SUBTYPES[kind], seed, range(first, stop), height, width)
            return stop - first

        return run

    jobs = [job(kind, first) for kind in range(len(images)) for first in range(0, per_type, _CHUNK)]
    _run(jobs, len(images) * per_type, 1, progress)  # many small array operations: a second thread only gets in the way
    return images.reshape(-1, height, width), np.arange(per_type, dtype=np.int32)

"""Show that the measures move the right way: real training pictures, and the same made worse, in one table.

    python experiments/validate_measures.py --height=48 --width=192

Every row is --num training pictures of the paper's data (by chance), spoilt or chosen as its name says, measured
against the test part. The first row is the ceiling. Prints a Markdown table; about 3 minutes at 48 x 192 on 2 cores.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cli
import numpy as np
from absl import flags
from scipy import ndimage

from bridge_ebm import corruptions, data, evaluation, metrics
from bridge_ebm.data import Dataset

HEIGHT = flags.DEFINE_integer("height", 48, "Height of the pictures in pixels.", lower_bound=16)
WIDTH = flags.DEFINE_integer("width", 192, "Width of the pictures in pixels.", lower_bound=16)
NUM = flags.DEFINE_integer("num", 600, "Pictures in each row.", lower_bound=100)
SYMMETRIC = flags.DEFINE_boolean("symmetric", False, "Only the mirror-symmetric pictures, as for a model of halves.")

COLUMNS = ("frechet", "precision", "recall", "density", "coverage", "memorised", "nearest", "sharp", "novel")


def main() -> None:
    """Measure every row and print it."""
    dataset = data.procedural(HEIGHT.value, WIDTH.value, progress=True)
    if SYMMETRIC.value:
        dataset = data.symmetric_part(dataset)
    train, test = data.split(dataset, "train"), data.split(dataset, "test")
    features = metrics.features(train.images), metrics.features(test.images)
    print("| " + " | ".join(["", *COLUMNS]) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name, pictures in rows(evaluation.evenly(train, NUM.value), data.split(dataset, "validation"), test).items():
        measured = measure(pictures, *features, test)
        print(f"| {name} | " + " | ".join(f"{measured[column]:.3f}" for column in COLUMNS) + " |", flush=True)


def rows(real: Dataset, validation: Dataset, test: Dataset) -> dict[str, Dataset]:
    """The sets of pictures to measure, by name."""
    spoil: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        **{f"blur {sigma} px": partial(blurred, sigma=sigma) for sigma in (0.3, 0.5, 1, 2)},
        **{f"noise {sigma}": partial(noisy, sigma=sigma) for sigma in (0.01, 0.02, 0.05, 0.1)},
        **{f"faded to {share}": partial(faded, share=share) for share in (0.9, 0.7, 0.5)},
        "average of two": corruptions.averaged,
        "deck cut": corruptions.cut,
    }
    kept = {f"{count} sub-types": evaluation.chosen(real, real.labels < count) for count in (7, 5, 3, 1)}
    thin = {f"width {width} only": evaluation.chosen(real, real.base == width) for width in (0, 15)}
    return {
        "training": real,
        "validation": evaluation.evenly(validation, len(real.images)),
        "test itself": evaluation.evenly(test, len(real.images)),
        **{name: real._replace(images=one(real.images)) for name, one in spoil.items()},
        **kept,
        **thin,
        **{f"{share:.0%} one test picture": collapsed(real, test, share) for share in (0.5, 0.9, 1.0)},
    }


def collapsed(real: Dataset, test: Dataset, share: float) -> Dataset:
    """With `share` of the pictures replaced by the first of `test`."""
    images, labels = real.images.copy(), real.labels.copy()
    some = np.random.default_rng(0).permutation(len(images))[: round(share * len(images))]
    images[some], labels[some] = test.images[0], test.labels[0]
    return real._replace(images=images, labels=labels)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by a Gaussian of `sigma` pixels."""
    return grey(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma)))


def noisy(images: np.ndarray, sigma: float) -> np.ndarray:
    """With noise of `sigma` of the grey range on every pixel."""
    return grey(images + 255 * sigma * np.random.default_rng(0).standard_normal(images.shape))


def faded(images: np.ndarray, share: float) -> np.ndarray:
    """With `share` of the grey of every pixel."""
    return grey(images * share)


def grey(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def measure(pictures: Dataset, train: np.ndarray, test: np.ndarray, real: Dataset) -> dict[str, Any]:
    """Every column of one row; `train` and `test` are the features of those parts."""
    fake = metrics.features(pictures.images)
    some = evaluation.evenly(pictures, 200)
    novelty = metrics.novelty(some.images, metrics.paper_reference(*real.images.shape[1:]))
    names = evaluation.names_of(some)
    return {
        **{name: one.value for name, one in metrics.fidelity(test, fake).items()},
        "memorised": metrics.memorisation(fake, train, test).share.value,
        "nearest": np.mean([one.nearest == name for one, name in zip(novelty, names, strict=True)]),
        "sharp": metrics.is_sharp(some.images).mean(),
        "novel": np.mean([one.novel for one in novelty]),
    }


if __name__ == "__main__":
    cli.run(main)

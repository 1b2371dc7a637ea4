"""Draw the data set and write it as a folder of PNG pictures.

    python experiments/make_dataset.py --out runs/dataset
    python experiments/make_dataset.py --out runs/varied --recipe varied --per_type 2000 --seed 1

Takes about 12 s for the paper's 9600 pictures on 2 cores, about 35 s for as many varied ones. Writes
OUT/<sub-type>/*.png, 8-bit grey, bright bridges on black, and last OUT/dataset.json: the settings, and which base
picture each file is a copy of, so that a split keeps base pictures whole. `train.py --data OUT` reads such a folder.
"""

from collections.abc import Iterator
from pathlib import Path

import cli
import numpy as np
from absl import flags

from bridge_ebm import data, pictures, recipes
from bridge_ebm.errors import InputError

VERSION = 1

_OUT = flags.DEFINE_string("out", None, "folder to write, new or empty", required=True)
_HEIGHT = flags.DEFINE_integer("height", 48, "height of the pictures in pixels")
_WIDTH = flags.DEFINE_integer("width", 192, "width of the pictures in pixels; the bridges are drawn 1 : 4")
_PER_TYPE = flags.DEFINE_integer("per_type", 1200, "pictures of each of the eight sub-types (paper: at most 1200)")
_RECIPE = flags.DEFINE_enum(
    "recipe",
    "paper",
    ["paper", "varied"],
    "paper: 16 member widths, rotated and scaled 75 ways; varied: free dimensions within engineering ranges",
)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the varied recipe (the paper recipe needs none)")
_MOST_PIXELS = 2**34  # 16 GiB of grey values: more is a slip of the hand


def _check() -> None:
    """Refuse settings that cannot be meant, naming the flag."""
    for flag in (_HEIGHT, _WIDTH, _PER_TYPE):
        if flag.value < 1:
            raise InputError(f"--{flag.name}={flag.value}: must be at least 1")
    if _SEED.value < 0:
        raise InputError(f"--seed={_SEED.value}: must not be negative")
    if _RECIPE.value == "paper" and _PER_TYPE.value > recipes.PER_TYPE:
        raise InputError(
            f"--per_type={_PER_TYPE.value}: the paper recipe has {recipes.PER_TYPE} pictures per sub-type; "
            "ask for no more, or use --recipe=varied"
        )
    if len(data.bridges.SUBTYPES) * _PER_TYPE.value * _HEIGHT.value * _WIDTH.value > _MOST_PIXELS:
        raise InputError("--height, --width, --per_type: more than 16 GiB of pictures; lower one of them")


def _empty_folder() -> Path:
    """The folder of --out, made if need be; refused when anything lies in it."""
    folder = Path(_OUT.value).expanduser()
    try:
        taken = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"--out={folder}: cannot be read ({error.strerror}); name another folder") from None
    if taken:
        raise InputError(f"--out={folder}: already holds files; name a new or an empty folder")
    return cli.output_folder(_OUT.value)


def _write(folder: Path, dataset: data.Dataset, names: list[str]) -> None:
    """Write the pictures, then the list of them."""
    for subtype in dataset.subtypes:
        (folder / subtype).mkdir()
    files = [f"{subtype}/{name}" for subtype in dataset.subtypes for name in names]

    def items() -> Iterator[tuple[str, np.ndarray]]:
        yield from zip(files, dataset.images, strict=True)

    pictures.write_pictures(folder, items(), len(files), progress=True)
    pictures.write_listing(
        folder,
        {
            "version": VERSION,
            "recipe": _RECIPE.value,
            "height": _HEIGHT.value,
            "width": _WIDTH.value,
            "per_type": _PER_TYPE.value,
            "seed": _SEED.value,
            "subtypes": list(dataset.subtypes),
            "base": dict(zip(files, dataset.base.tolist(), strict=True)),
        },
    )


def main() -> None:
    """Draw and write the data set of the flags."""
    _check()
    folder = _empty_folder()
    dataset = data.procedural(_HEIGHT.value, _WIDTH.value, _RECIPE.value, _PER_TYPE.value, _SEED.value, progress=True)
    try:
        _write(folder, dataset, recipes.file_names(_RECIPE.value, _PER_TYPE.value))
    except OSError as error:
        raise InputError(f"--out={folder}: cannot write there ({error.strerror}); free some space") from None
    print(f"{len(dataset.images)} pictures of {_HEIGHT.value} x {_WIDTH.value}: {folder.resolve()}")


if __name__ == "__main__":
    cli.run(main)

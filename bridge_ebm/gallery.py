"""The gallery: one HTML file that shows designs, sorts, filters and exports them, and needs nothing but itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Design(NamedTuple):
    """One card of the gallery.

    `record` is the design's line of designs.jsonl with its `name`: texts `name`, `file`, `verdict`, `nearest` (a
    sub-type), `how`; `reasons`, texts; `explained_by`, sub-types with their shares, a mapping or pairs; `definition`,
    a mapping; the numbers `energy`, `novelty`, `symmetry`, `axial_share`, `gain`. Numbers may be None, keys may be
    missing. `how` is a mapping whose `way` names the way of making, or a text that begins with it, up to the first
    comma, colon or semicolon.

    `image`, `nearest_image` and `frames` are uint8 [H, W], bright on black; `nearest_image` may be None. `forces` is
    the force drawing (`tracing.forces`) as uint8 [h, w, 3] or as the bytes of a picture file, or None. `frames` and
    `energies` both run at equal distances from the noise to the end of the chain, each as many as there are (about 8
    frames are enough, and keep the page small); both may be empty. `svg` is what `tracing.svg` wrote, or "".
    """

    record: Mapping[str, Any]
    image: Array
    forces: Array | bytes | None
    nearest_image: Array | None
    frames: Sequence[Array]
    energies: Sequence[float]
    svg: str


def write(path: Path, designs: Sequence[Design], title: str = "New bridge types") -> None:
    """Write the page that shows `designs`, best first, to the file `path`."""
    raise NotImplementedError

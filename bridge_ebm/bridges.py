"""The paper's 8 x 16 base pictures: the eight bridge sub-types of arXiv 2401.17657 at 16 member widths.

`PAPER` holds the dimensions and `FINISH` the thicknesses and greys, in metres, measured from the author's published
renders (300 m of deck on 475 of 512 pixels; spans 80 + 140 + 80 m for the beams, 67 + 166 + 67 m for the others). They
keep his asymmetries: the V piers stand 1.4 m to the right, suspension cables up to 0.2 m.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bridge_ebm import raster
from bridge_ebm.errors import InputError
from bridge_ebm.geometry import (
    Beam,
    CableStayed,
    DeckArch,
    Dimensions,
    Suspension,
    ThroughArch,
    VPierFrame,
    members,
)
from bridge_ebm.raster import Ink

FAMILIES: Mapping[str, str] = {
    "beam": "beam",
    "v_pier_frame": "beam",
    "deck_arch": "arch",
    "through_arch": "arch",
    "harp_cable_stayed": "cable-stayed",
    "fan_cable_stayed": "cable-stayed",
    "vertical_suspension": "suspension",
    "diagonal_suspension": "suspension",
}
SUBTYPES: tuple[str, ...] = tuple(FAMILIES)
WIDTHS = 16  # base pictures per sub-type: member widths from thin (0) to thick (15)


class Finish(NamedTuple):
    """Thickness (metres) at width index 0 and 15, linear between, and grey at the left and right edges."""

    thin: float
    thick: float
    grey_left: float = 255.0
    grey_right: float = 255.0


_PANELS = (0.0, 16.604, 33.208, 49.812, 66.416)  # a tenth of the main span, from mid-span
_SIDE_PANELS = (99.624, 116.228, 132.832)

PAPER: Mapping[str, Dimensions] = {
    "beam": Beam(pier=70.01, foot=30.52),
    "v_pier_frame": VPierFrame(pier=70.0, foot=27.44, reach=27.44, offset=1.4),
    "deck_arch": DeckArch(
        pier=83.963,
        foot=30.13,
        crown=5.177,
        side_rise=5.49,
        columns=(0.0, 17.5, 34.166, 50.742, 67.362),
        side_columns=(100.61, 117.22, 133.85),
    ),
    "through_arch": ThroughArch(
        pier=83.015,
        foot=30.52,
        rise=25.15,
        side_rise=10.015,
        hangers=_PANELS,
        side_hangers=_SIDE_PANELS,
        drop=0.55,
    ),
    "harp_cable_stayed": CableStayed(
        pier=83.02,
        foot=30.01,
        tower=32.45,
        heights=(32.89, 25.0, 17.12, 9.24),
        reaches=(66.79, 50.78, 34.73, 18.73),
    ),
    "fan_cable_stayed": CableStayed(
        pier=83.04,
        foot=30.01,
        tower=33.02,
        heights=(32.89, 29.15, 25.29, 21.31),
        reaches=(66.76, 51.26, 35.21, 19.14),
    ),
    "vertical_suspension": Suspension(
        pier=83.015,
        foot=30.52,
        tower=29.694,
        peak=31.03,
        low=6.22,
        side_sag=4.86,
        anchor=0.22,
        hangers=(*_PANELS, *_SIDE_PANELS),
        offsets=(0.19, 0.06, 0.09, 0.1),
    ),
    "diagonal_suspension": Suspension(
        pier=82.981,
        foot=30.51,
        tower=30.03,
        peak=31.0,
        low=6.241,
        side_sag=4.8,
        anchor=0.19,
        hangers=(*_PANELS, 83.02, 99.8, 116.42, 132.98),
        diagonal=True,
        stub=2.69,
        node=0.64,
        top=0.959,
        offsets=(0.17, 0.05, 0.02, 0.15),
    ),
}

FINISH: Mapping[str, Mapping[str, Finish]] = {
    "beam": {"pier": Finish(1.005, 5.72, 230.4, 252.7), "deck": Finish(0.989, 5.741, 233.3, 253.4)},
    "v_pier_frame": {"leg": Finish(1.003, 5.731, 231.9, 251.6), "deck": Finish(0.989, 5.741, 233.4, 253.4)},
    "deck_arch": {
        "column": Finish(0.878, 0.878, 214.1, 188.1),
        "deck": Finish(1.003, 1.961, 229.6, 249.2),
        "pier": Finish(0.973, 5.382, 262.0, 233.9),
        "arch": Finish(0.777, 2.259, 217.9, 232.0),
        "side_arch": Finish(0.844, 1.578, 227.8, 222.2),
    },
    "through_arch": {
        "hanger": Finish(1.022, 1.022),
        "deck": Finish(1.010, 3.837),
        "arch": Finish(1.010, 3.850),
        "pier": Finish(0.985, 5.557),
    },
    "harp_cable_stayed": {
        "deck": Finish(0.994, 2.900, 234.1, 254.2),
        "tower": Finish(0.997, 5.722, 232.3, 254.2),
        "stay": Finish(0.837, 0.837, 142.5, 125.2),
    },
    "fan_cable_stayed": {
        "deck": Finish(0.990, 2.900),
        "tower": Finish(0.998, 5.721),
        "stay": Finish(0.824, 0.824, 232.7, 232.7),
    },
    "vertical_suspension": {
        "deck": Finish(1.003, 1.963, 229.1, 249.2),
        "tower": Finish(0.969, 5.415, 233.4, 254.7),
        "hanger": Finish(0.767, 0.767, 262.0, 192.7),
        "cable": Finish(0.798, 1.528, 215.7, 218.5),
    },
    "diagonal_suspension": {
        "deck": Finish(1.001, 1.972, 227.6, 247.3),
        "tower": Finish(1.906, 5.479, 229.5, 252.1),
        "hanger": Finish(0.911, 0.911, 217.3, 203.6),
        "cable": Finish(0.799, 1.535, 214.6, 218.2),
    },
}


def inks(subtype: str, width_index: int) -> dict[str, Ink]:
    """Thickness and grey of every kind of member of a base picture, by the paper's law of widths."""
    share = width_index / (WIDTHS - 1)
    return {
        kind: Ink(finish.thin + share * (finish.thick - finish.thin), finish.grey_left, finish.grey_right)
        for kind, finish in FINISH[subtype].items()
    }


def drawn_scale(height: int, width: int) -> float:
    """How much larger than 128 x 512 a picture of this size is drawn before it is area-averaged; at least 1."""
    return max(1.0, height / raster.HEIGHT, width / raster.WIDTH)


def render(subtype: str, width_index: int, height: int, width: int) -> np.ndarray:
    """One of the 8 x 16 base pictures of the paper: uint8 [height, width], bright bridge on black.

    `subtype` is one of `SUBTYPES`, `width_index` 0 (thin) to 15 (thick), the size anything from 1 x 1 upward (a size
    that is not 1 : 4 squeezes the picture). Raises `InputError` on anything else.
    """
    if subtype not in SUBTYPES:
        raise InputError(f"no sub-type {subtype!r}: use one of {', '.join(SUBTYPES)}")
    if not 0 <= width_index < WIDTHS:
        raise InputError(f"no member width {width_index!r}: use an index from 0 to {WIDTHS - 1}")
    if min(height, width) < 1:
        raise InputError(f"no picture of {height} x {width}: height and width must be at least 1")
    full = raster.draw(members(PAPER[subtype]), inks(subtype, width_index), drawn_scale(height, width))
    return raster.area_average(full, height, width)

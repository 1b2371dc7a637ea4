"""The recognised structure of a picture as drawings: its members in metres (SVG), and its forces in colour."""

import numpy as np

from bridge_ebm.structure import Analysis

Array = np.ndarray


def svg(image: Array, analysis: Analysis, name: str) -> str:
    """The members that `analysis` found in `image` as an SVG file in metres, titled `name`."""
    raise NotImplementedError


def forces(image: Array, analysis: Analysis) -> Array:
    """`force_drawing.draw` as a picture for the gallery, uint8 [h, w, 3]."""
    raise NotImplementedError

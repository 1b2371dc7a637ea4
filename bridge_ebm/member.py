"""What a recognised member of a bridge is."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray

PULL_ONLY = ("cable", "stay", "hanger")
BEARING = ("arch", "leg", "strut", "chord", "brace")  # may press, and stand at any lean
ABUTMENT = 51  # canvas pixels from the left or right edge: a deck that ends there rests on the bank


class Member(NamedTuple):
    """A recognised member: `kind`, how sure that is (0.5 to 1), its axis [K, 2] in pixels, and its two ends.

    `ends` say what holds each end: "deck", "ground", "free" or the number of another member; `at` [2, 2] where.
    `thickness` in pixels; `gaps` is the number of blank stretches that were bridged to reach its ends; `bow` the
    rise over its chord in pixels (sag: negative).
    """

    kind: str
    confidence: float
    points: Array
    thickness: float
    bow: float
    ends: tuple[str | int, str | int]
    at: Array
    gaps: int

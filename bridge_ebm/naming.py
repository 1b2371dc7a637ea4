"""Names for designs, from what the picture shows: span by span, above and below the deck, beside the real pictures."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from bridge_ebm import ink
from bridge_ebm.bridges import FAMILIES
from bridge_ebm.novelty import REACH, Reference
from bridge_ebm.structure import Analysis

SPANS = ("left", "main", "right")
# What a sub-type shows above the deck, and below it besides piers.
ABOVE = {
    "through_arch": "through arch",
    "harp_cable_stayed": "harp stays",
    "fan_cable_stayed": "fan stays",
    "vertical_suspension": "suspension cable",
    "diagonal_suspension": "diagonal-hanger suspension cable",
}
BELOW = {"deck_arch": "deck arch", "v_pier_frame": "V piers"}
WHOLE = {
    "beam": "beam bridge",
    "v_pier_frame": "beam bridge on V piers",
    "deck_arch": "deck arch bridge",
    "through_arch": "through arch bridge",
    "harp_cable_stayed": "harp cable-stayed bridge",
    "fan_cable_stayed": "fan cable-stayed bridge",
    "vertical_suspension": "suspension bridge",
    "diagonal_suspension": "suspension bridge with diagonal hangers",
}
UNKNOWN = "unknown form"
BARE = "plain girder"

_DECK = 5  # canvas pixels about the deck's centre line that belong to it
_TOWER = 7  # canvas pixels about a pier that towers and piers take
_LEAST = 15  # pixels of line that are more than a blemish
_LIKE = 0.45  # agreement from which on a region is named after a sub-type
_BANKS = 80.0  # metres from mid-span to the piers where the picture shows none
_NEAREST_PIER = 30.0  # metres from mid-span

Array = np.ndarray


class Region(NamedTuple):
    """What stands in one span above or below the deck: the sub-type most like it, "" where there is nothing, and
    `UNKNOWN` for what is like none.
    """

    span: str
    above: bool
    subtype: str


def regions(image: Array, analysis: Analysis, real: Reference) -> tuple[Region, ...]:
    """What uint8 `image` [H, W] shows in each of its six regions; `analysis` is that of the picture."""
    mask = ink.find_ink(*ink.canvas(image)).mask
    lines = ink.find_skeleton(mask) if mask.any() else mask
    near = np.asarray(ndimage.distance_transform_edt(~lines)) <= REACH if lines.any() else lines
    row, edges = _deck_row(analysis), (0.0, *_piers(analysis), float(ink.WIDTH))
    y, x = np.mgrid[: ink.HEIGHT, : ink.WIDTH]
    away = np.min([np.abs(x - edge) for edge in edges[1:3]], axis=0) > _TOWER
    found = []
    for above in (True, False):
        side = (y < row - _DECK) if above else (y > row + _DECK)
        for k, span in enumerate(SPANS):
            inside = side & (x >= edges[k]) & (x < edges[k + 1]) & away
            found.append(Region(span, above, _likest(lines, near, inside, real, ABOVE if above else BELOW)))
    return tuple(found)


def _deck_row(analysis: Analysis) -> float:
    rows = [support.y for support in analysis.supports if support.kind == "abutment"]
    return float(np.mean(rows)) if rows else (ink.HEIGHT - 1) / 2


def _piers(analysis: Analysis) -> tuple[float, float]:
    """Canvas columns of the piers beside the main span."""
    found = []
    for side in (-1, 1):
        feet = [s.metres * side for s in analysis.supports if s.kind == "ground" and s.metres * side > _NEAREST_PIER]
        found.append((ink.WIDTH - 1) / 2 + side * min(feet, default=_BANKS) / ink.METRES)
    return found[0], found[1]


def _likest(lines: Array, near: Array, inside: Array, real: Reference, allowed: dict[str, str]) -> str:
    """The sub-type of `allowed` whose real pictures agree best with the lines of a region.

    Agreement is (P + R) / 2 as in novelty.py, of what lies in the region alone.
    """
    mine = np.flatnonzero(lines & inside)
    if len(mine) < _LEAST:
        return ""
    there = real.lines @ sparse.csc_array(inside.ravel()[:, None].astype(np.float32))
    lengths = np.asarray(there.todense()).ravel()
    back = np.asarray(real.lines @ (near & inside).ravel().astype(np.float32)).ravel() / np.maximum(lengths, 1)
    onto = real.near[mine].mean(axis=0)
    names = np.array(real.subtypes)[real.labels]
    fits = np.where((lengths >= _LEAST) & np.isin(names, list(allowed)), (onto + back) / 2, -1.0)
    best = int(fits.argmax())
    return str(names[best]) if fits[best] >= _LIKE else UNKNOWN


def name(found: tuple[Region, ...]) -> str:
    """A design's name in words, from its regions."""
    at = {(region.span, region.above): region.subtype for region in found}
    left, main, right = ((at[span, True], at[span, False]) for span in SPANS)
    if left == main == right:
        return _uniform(*main)
    below = {under for _, under in (left, main, right)}
    # Deck arches below all of it, and V piers, which reach from span to span, are said once.
    all_over = below == {"deck_arch"} and all(over for over, _ in (left, main, right))
    once = "deck_arch" if all_over else "v_pier_frame" if "v_pier_frame" in below else UNKNOWN
    foot = {"deck_arch": " over deck arches", "v_pier_frame": " on V piers"}.get(once, "")
    shown = [_words(over, "" if under == once and foot else under) for over, under in (left, main, right)]
    text = f"{shown[1]} main span" if " over " not in shown[1] else f"main span of {_article(shown[1])}"
    if shown[0] != shown[2]:
        text += f" with {_article(shown[0])} on the left and {_article(shown[2])} on the right side span"
    elif shown[0] != shown[1]:
        text += f" with {_article(shown[0])} on the side spans"
    return text + foot


def _uniform(above: str, below: str) -> str:
    if UNKNOWN in (above, below):
        return f"bridge of {UNKNOWN}"
    if not above:
        return WHOLE[below or "beam"]
    if below == "v_pier_frame":
        return f"{WHOLE[above]} on V piers"
    return f"{WHOLE[above]} over deck arches" if below else WHOLE[above]


def _words(above: str, below: str) -> str:
    """One span in words."""
    over, under = ABOVE.get(above, above), BELOW.get(below, below)
    if over and under:
        return f"{over} over {_article(under)}"
    return over or under or BARE


def _article(words: str) -> str:
    return words if "stays" in words.split(" over ")[0] else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def families(found: tuple[Region, ...]) -> tuple[str, ...]:
    """The families of bridges (arch, cable-stayed, suspension, beam) whose forms the picture shows, in order."""
    shown = {FAMILIES[region.subtype] for region in found if region.subtype in FAMILIES}
    return tuple(family for family in dict.fromkeys(FAMILIES.values()) if family in shown)

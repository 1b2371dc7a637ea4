"""Bridges of the eight sub-types with free dimensions, within what bridge engineers build.

The 300 m deck stays; spans, rises, sags, tower heights, V-leg angles, counts of stays and hangers, and the thickness
of every kind of member vary. The ranges and where they come from are in BUILD_NOTES.md ("Data"). All pictures are
symmetric, white on black, with the deck in the middle of the canvas.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bridge_ebm import bridges, raster
from bridge_ebm.geometry import (
    DECK_END,
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

# Ratios and, in metres, lengths; drawn uniformly between the two.
BEAM_SIDE_TO_MAIN = (0.5, 0.8)
V_SIDE_TO_MAIN = (0.5, 0.75)
V_LEG_DEGREES = (40.0, 60.0)  # from the horizontal
ARCH_SIDE_TO_MAIN = (0.35, 0.5)
ARCH_RISE_TO_SPAN = (1 / 8, 1 / 5)
ARCH_CROWN = (3.0, 7.0)  # depth of a deck arch's crown below the deck
STAYED_SIDE_TO_MAIN = (0.38, 0.47)
STAYED_HEIGHT_TO_MAIN = (1 / 5, 1 / 4)
STAYS = (3, 8)  # on each side of a tower
FAN_LOWEST = (0.55, 0.85)  # the lowest anchor of a fan, as a share of the highest
SUSPENSION_SIDE_TO_MAIN = (0.3, 0.5)
SAG_TO_SPAN = (1 / 11, 1 / 7)
SHORTEST_HANGER = (3.0, 7.0)
PANEL = (10.0, 20.0)  # pitch of hangers, columns and deck nodes
FOOT = (27.0, 33.0)  # below the deck
TALLEST = 35.0  # above or below the deck: what the canvas holds with room for the thickest member
BOW = (0.3, 0.7)  # side arches and cables: turn of the tangent, as a share of the chord's slope
THIN_MEMBERS = 1.3  # stays and hangers: up to this many times the paper's thickness

Range = tuple[float, float]


def _main_span(rng: np.random.Generator, side_to_main: Range) -> float:
    """Main span (metres) of three spans that make up the deck."""
    return 2 * DECK_END / (1 + 2 * rng.uniform(*side_to_main))


def _between(rng: np.random.Generator, ratios: Range, span: float, low: float, high: float) -> float:
    """A length of `ratios` times `span`, kept within `low` and `high`."""
    return rng.uniform(max(ratios[0] * span, low), min(ratios[1] * span, high))


def _panels(rng: np.random.Generator, pier: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distances from mid-span of the panel points inside the main span and inside a side span, piers left out."""
    count = int(rng.integers(math.ceil(2 * pier / PANEL[1]), math.floor(2 * pier / PANEL[0]) + 1))
    pitch = 2 * pier / count
    main = tuple(pier - k * pitch if 2 * k != count else 0.0 for k in range(1, count // 2 + 1))
    side = tuple(pier + k * pitch for k in range(1, count) if pier + (k + 0.8) * pitch <= DECK_END)
    return main, side


def _bow(rng: np.random.Generator, across: float, up: float) -> float:
    """Sagitta of a side arch or cable over a chord that runs `across` and `up`: never level with the deck."""
    return math.hypot(across, up) * math.tan(rng.uniform(*BOW) * math.atan2(up, across) / 2) / 2


def _beam(rng: np.random.Generator) -> Beam:
    return Beam(_main_span(rng, BEAM_SIDE_TO_MAIN) / 2, rng.uniform(*FOOT))


def _v_pier_frame(rng: np.random.Generator) -> VPierFrame:
    foot = rng.uniform(FOOT[0] - 3, FOOT[1] - 3)  # the tip of the V reaches below its centre lines
    reach = foot / math.tan(math.radians(rng.uniform(*V_LEG_DEGREES)))
    return VPierFrame(_main_span(rng, V_SIDE_TO_MAIN) / 2, foot, reach)


def _deck_arch(rng: np.random.Generator) -> DeckArch:
    span = _main_span(rng, ARCH_SIDE_TO_MAIN)
    crown = rng.uniform(*ARCH_CROWN)
    foot = crown + _between(rng, ARCH_RISE_TO_SPAN, span, FOOT[0] - crown, FOOT[1] - crown)
    side_rise = _bow(rng, DECK_END - span / 2, foot)
    return DeckArch(span / 2, foot, crown, side_rise, *_panels(rng, span / 2))


def _through_arch(rng: np.random.Generator) -> ThroughArch:
    span = _main_span(rng, ARCH_SIDE_TO_MAIN)
    rise = _between(rng, ARCH_RISE_TO_SPAN, span, 0, TALLEST)
    side_rise = (DECK_END - span / 2) * rng.uniform(*ARCH_RISE_TO_SPAN)
    return ThroughArch(span / 2, rng.uniform(*FOOT), rise, side_rise, *_panels(rng, span / 2))


def _cable_stayed(rng: np.random.Generator, harp: bool) -> CableStayed:
    span = _main_span(rng, STAYED_SIDE_TO_MAIN)
    top = _between(rng, STAYED_HEIGHT_TO_MAIN, span, 0, TALLEST)
    count = int(rng.integers(STAYS[0], STAYS[1] + 1))
    shares = np.linspace(1, rng.uniform(0.8, 1.2) / count, count)
    lowest = rng.uniform(*FAN_LOWEST)
    heights = top * (shares if harp else np.linspace(1, lowest, count))
    reaches = (DECK_END - span / 2) * shares
    tower = top + rng.uniform(0.0, 1.5)
    return CableStayed(span / 2, rng.uniform(*FOOT), tower, tuple(heights.tolist()), tuple(reaches.tolist()))


def _suspension(rng: np.random.Generator, diagonal: bool) -> Suspension:
    span = _main_span(rng, SUSPENSION_SIDE_TO_MAIN)
    pier, low = span / 2, rng.uniform(*SHORTEST_HANGER)
    peak = low + _between(rng, SAG_TO_SPAN, span, 0, TALLEST - low)
    side_sag = _bow(rng, DECK_END - pier, peak)
    main, side = _panels(rng, pier)
    nodes = (*main, pier, *side) if diagonal else (*main, *side)
    return Suspension(pier, rng.uniform(*FOOT), peak, peak, low, side_sag, 0.0, nodes, diagonal)


_DRAW: Mapping[str, Callable[[np.random.Generator], Dimensions]] = {
    "beam": _beam,
    "v_pier_frame": _v_pier_frame,
    "deck_arch": _deck_arch,
    "through_arch": _through_arch,
    "harp_cable_stayed": lambda rng: _cable_stayed(rng, harp=True),
    "fan_cable_stayed": lambda rng: _cable_stayed(rng, harp=False),
    "vertical_suspension": lambda rng: _suspension(rng, diagonal=False),
    "diagonal_suspension": lambda rng: _suspension(rng, diagonal=True),
}


def _inks(rng: np.random.Generator, subtype: str) -> dict[str, Ink]:
    """White, each kind of member as thick as in the paper's set or between, stays and hangers a little thicker."""
    thickness = {
        kind: rng.uniform(finish.thin, max(finish.thick, THIN_MEMBERS * finish.thin))
        for kind, finish in bridges.FINISH[subtype].items()
    }
    if "leg" in thickness:  # the corner of a slanting leg must not stand out above the deck
        thickness["leg"] = min(thickness["leg"], thickness["deck"] / math.cos(math.radians(V_LEG_DEGREES[0])))
    return {kind: Ink(value) for kind, value in thickness.items()}


def dimensions(subtype: str, seed: int, index: int) -> tuple[Dimensions, dict[str, Ink]]:
    """Dimensions and thicknesses of picture `index` of a sub-type: a function of these three alone."""
    rng = np.random.default_rng((seed, bridges.SUBTYPES.index(subtype), index))
    return _DRAW[subtype](rng), _inks(rng, subtype)


def render(subtype: str, seed: int, indices: Sequence[int], height: int, width: int) -> np.ndarray:
    """Pictures of the varied recipe: uint8 [len(indices), height, width], bright bridge on black."""
    scale = bridges.drawn_scale(height, width)
    drawn = []
    for index in indices:
        of, inks = dimensions(subtype, seed, index)
        drawn.append(raster.draw(members(of), inks, scale))
    return raster.area_average(np.stack(drawn), height, width)

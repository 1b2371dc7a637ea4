"""What to compose: which sub-type where in the picture, drawn for each candidate from its number and the seed.

A design has three spans, each with a sub-type above the deck and one below it. Rules of the trade keep out of the draw
what cannot stand: stays and cables need something to pull against on the other side of their tower, a main span needs
something that carries it, V legs reach into both spans beside them and leave no foot for a tower. The rest is for the
screening to say.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bridge_ebm import compose
from bridge_ebm.errors import InputError

# What each sub-type has above the deck: nothing, arches, or towers with stays or cables.
PLAIN = ("beam", "v_pier_frame", "deck_arch")
STAYED = ("harp_cable_stayed", "fan_cable_stayed")
TOWERED = (*STAYED, "vertical_suspension", "diagonal_suspension")
UNDER = ("v_pier_frame", "deck_arch")  # what else may stand below a span than its own piers

METRES = 300 / 475.34 * 512  # of a picture's width: 300 m of deck on 475.34 of 512 pixels
PIER = 83.0  # metres from mid-span, of all sub-types but the beams
SHORT_SPAN = ("beam", "v_pier_frame")  # these stand nearer

# The ways of making, and the share of the default mix that each has.
MIX = {"spans": 0.1, "levels": 0.4, "sides": 0.5}
WAYS = (*MIX, "regional", "blend", "either", "without", "subtype", "restart")


class Span(NamedTuple):
    """The sub-types above and below the deck of one span."""

    above: str
    below: str


_ANY = Span("", "")


class Plan(NamedTuple):
    """How one candidate is made.

    `way`; the `spans` left, main and right; `seams` left and right in metres from mid-span, above and below the deck.
    Ways that do not compose by region have the same sub-type in all of `spans` ("": none, of the way "restart"), and
    `other`, the second sub-type that they mix in ("": none).
    """

    way: str
    spans: tuple[Span, Span, Span]
    seams: tuple[tuple[float, float], tuple[float, float]] = ((PIER, PIER), (PIER, PIER))
    other: str = ""

    @property
    def subtypes(self) -> tuple[str, ...]:
        """The sub-types of the spans, each once: above the deck from left to right, then below."""
        return tuple(dict.fromkeys(span[level] for level in (0, 1) for span in self.spans))


class Wishes(NamedTuple):
    """What the user asks for; empty: anything.

    `combine`: these sub-types and no others, all of them. `main` and `sides` (one, or left and right): these above or
    below those spans. `symmetric`: the two sides alike.
    """

    combine: tuple[str, ...] = ()
    main: str = ""
    sides: tuple[str, ...] = ()
    symmetric: bool = False


def draw(seed: int, index: int, mix: tuple[tuple[str, float], ...], wishes: Wishes, known: tuple[str, ...]) -> Plan:
    """The plan of candidate `index`: a function of the arguments alone.

    `mix` holds the ways with their shares, `known` the sub-types of the model. Raises an `InputError` where nothing
    meets the wishes.
    """
    rng = np.random.default_rng((seed, index))
    shares = np.array([share for _, share in mix])
    way = mix[int(rng.choice(len(mix), p=shares / shares.sum()))][0]
    choices = _choices(way, wishes, known)
    left, main, right, other = choices[int(rng.integers(len(choices)))]
    if left != right and rng.random() < 0.5:
        left, right = right, left
    return Plan(way, (left, main, right), other=other)


@lru_cache(maxsize=64)
def _choices(way: str, wishes: Wishes, known: tuple[str, ...]) -> list[tuple[Span, Span, Span, str]]:
    """All plans of a way that meet the wishes: those that follow the rules, or, where there are none, all."""
    regions = way in MIX or way == "regional"
    if regions:
        ways = MIX if way == "regional" else (way,)
        found = [(left, main, right, "") for one in ways for left, main, right in _compositions(one, known)]
    elif way == "restart":
        found = [(_ANY, _ANY, _ANY, "")]
    else:
        others = [""] if way == "subtype" else known
        found = [(Span(a, a), Span(a, a), Span(a, a), b) for a in known for b in others if a != b]
    found = [choice for choice in found if _meets(choice, wishes)]
    if way in ("blend", "either"):  # the order does not matter: one of two that are left
        both = {(choice[0].above, choice[3]) for choice in found}
        found = [c for c in found if (c[3], c[0].above) not in both or known.index(c[0].above) < known.index(c[3])]
    if not found:
        raise InputError(f"--ways={way}: nothing can be made so with these wishes; drop one, or choose other --ways")
    return [choice for choice in found if not regions or _stands(*choice[:3])] or found


def _compositions(way: str, known: tuple[str, ...]) -> list[tuple[Span, Span, Span]]:
    """All spans of a way, left and right in one order only."""
    own = [Span(name, name) for name in known]
    mixed = [Span(a, b) for a in known if a not in PLAIN for b in UNDER if b in known]
    options = own if way == "spans" else own + mixed
    found = []
    for number, left in enumerate(options):
        for right in options[number:]:
            for main in options:
                spans = left, main, right
                alike = left == right
                if len({*left, *main, *right}) > 1 and (
                    (way == "spans" and alike)
                    or (way == "levels" and alike and any(span.above != span.below for span in spans))
                    or (way == "sides" and not alike)
                ):
                    found.append(spans)
    return found


def _meets(choice: tuple[Span, Span, Span, str], wishes: Wishes) -> bool:
    left, main, right, other = choice
    used = {*left, *main, *right, other} - {""}
    if wishes.combine and used != set(wishes.combine):
        return False
    if wishes.symmetric and left != right:
        return False
    if wishes.main and wishes.main not in main:
        return False
    if not wishes.sides:
        return True
    one, two = wishes.sides[0], wishes.sides[-1]
    return (one in left and two in right) or (two in left and one in right)


def _stands(left: Span, main: Span, right: Span) -> bool:
    """Whether the rules of the trade let the three spans stand side by side."""
    spans = left, main, right
    carried = main.above not in PLAIN or main.below != "beam"
    legs = sum(span.below == "v_pier_frame" for span in spans)
    footed = legs == 0 or (legs == 3 and not any(span.above in TOWERED for span in spans))
    return carried and footed and _pulls(left, main) and _pulls(right, main)


def _pulls(side: Span, main: Span) -> bool:
    """Towers with stays or cables on both sides, or on none; stays over the side span may hold an arch instead."""
    both = (side.above in TOWERED) == (main.above in TOWERED)
    return both or (side.above in STAYED and main.above == "through_arch")


def masks(plan: Plan, height: int, width: int, softness: float = 1.0) -> np.ndarray:
    """The regions of the sub-types of a plan, float32 [K, height, width, 1]: a partition of unity.

    `softness` is the width of the seams between the spans in those of `compose.SEAM`.
    """
    rows = compose.deck_masks(height, width)
    regions: dict[str, np.ndarray] = {}
    for level, (left, right) in enumerate(plan.seams):
        places = width * (0.5 - left / METRES), width * (0.5 + right / METRES)
        columns = compose.span_masks(width, places, softness)
        for cell, span in zip(compose.cells(rows[level : level + 1], columns), plan.spans, strict=True):
            name = span[level]
            regions[name] = regions.get(name, 0) + cell
    return np.stack([regions[name] for name in plan.subtypes])


def parse_mix(ways: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The mix that --ways asks for: the default one for none, else the ways named, by equal shares."""
    for way in ways:
        if way not in WAYS:
            raise InputError(f"--ways={','.join(ways)}: no way {way!r}; choose from {', '.join(WAYS)}")
    return tuple((way, 1.0) for way in dict.fromkeys(ways)) or tuple(MIX.items())


def possible(
    mix: tuple[tuple[str, float], ...], wishes: Wishes, known: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    """The ways of a mix that can meet the wishes; the whole mix where none can."""
    return tuple((way, share) for way, share in mix if _possible(way, wishes, known)) or mix


def _possible(way: str, wishes: Wishes, known: tuple[str, ...]) -> bool:
    try:
        return bool(_choices(way, wishes, known))
    except InputError:
        return False


def check(mix: Sequence[tuple[str, float]], wishes: Wishes, known: tuple[str, ...]) -> None:
    """Raise an `InputError` if a way of the mix cannot meet the wishes."""
    for way, _ in mix:
        _choices(way, wishes, known)

"""Bridges as a teacher would draw them, from straight lines in metres: x from mid-span, y up from the deck."""

import numpy as np

from bridge_ebm import raster
from bridge_ebm.raster import Ink, Member

INKS = {"deck": Ink(2.0), "bar": Ink(1.2), "web": Ink(1.0), "thick": Ink(2.6)}
DECK = Member("deck", (-150.0, 0.0), (150.0, 0.0))


def picture(members, size):
    return raster.area_average(raster.draw(members, INKS), *size)


def bar(kind, x0, y0, x1, y1):
    """A line from its left end to its right one, as `raster.draw` wants it; upright ones from the top."""
    return Member(kind, *sorted([(x0, y0), (x1, y1)], key=lambda p: (p[0], -p[1])))


def piers(*at, top=0.0):
    return [bar("thick", x, top, x, -30.0) for x in at]


def truss(web, panels, level, left=-150.0, right=150.0, without=()):
    """A chord at height `level` and its web: "warren", "pratt", "howe" or "crossed", panels `without` left open."""
    x = np.linspace(left, right, panels + 1)
    lines = []
    for i, (a, b) in enumerate(zip(x, x[1:], strict=False)):
        up, down = bar("web", a, 0, b, level), bar("web", a, level, b, 0)
        rising = i % 2 == 0 if web == "warren" else (i < panels / 2) == (web == "howe")
        lines += [] if i in without else [up, down] if web == "crossed" else [up if rising else down]
    if web == "warren":
        return [*lines, bar("bar", x[1], level, x[-2 + panels % 2], level)]
    return [*lines, *(bar("web", p, level, p, 0) for p in x), bar("bar", left, level, right, level)]


def fan(x, top=33.0, spread=63.0, side=(-1, 1)):
    return [bar("web", x, top - 2.5 * k, x + s * (spread - 13 * k), 0) for k in range(4) for s in side]


def suspended(towers=83.0):
    """A main cable of eight straight pieces, its hangers and its side cables, without towers or piers."""
    x = np.linspace(-towers, towers, 9)
    y = 4 + 27 * (x / towers) ** 2
    cable = [bar("bar", a, p, b, q) for a, b, p, q in zip(x, x[1:], y, y[1:], strict=False)]
    hangers = [bar("web", a, p, a, 0) for a, p in zip(x[1:-1], y[1:-1], strict=True)]
    return [*cable, *hangers, bar("bar", -150, 0, -towers, 31), bar("bar", towers, 31, 150, 0)]

"""The recognised structure of a picture as drawings: its members in metres (SVG), and its forces in colour."""

import re
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage
from skimage.measure import approximate_polygon

from bridge_ebm import force_drawing
from bridge_ebm import ink as inking
from bridge_ebm.ink import HEIGHT, METRES, WIDTH, Deck
from bridge_ebm.member import Member
from bridge_ebm.skeleton import length
from bridge_ebm.structure import Analysis

_SHEET = (960, 240)  # pixels of the force drawing
_STRAIGHT = 0.25  # pixels that a traced axis may leave the recognised one by
_BESIDE = 3.5  # pixels beside a member's edge that still hold its blur
_APART = 4.0  # pixels between the sections at which a thickness is measured
_FINE = 0.25  # pixels between the places where the end of a line is looked for
_THINNEST = 0.1  # metres
_COLOURS = {
    "deck": "#1a1a1a",
    "pier": "#5b4636",
    "tower": "#5b4636",
    "leg": "#5b4636",
    "arch": "#b03a2e",
    "column": "#b8642b",
    "strut": "#b8642b",
    "chord": "#b03a2e",
    "brace": "#b8642b",
    "cable": "#1f5fa8",
    "stay": "#1f5fa8",
    "hanger": "#3b8f8f",
}

Array = np.ndarray


class Trace(NamedTuple):
    """One member: its kind, its axis [K, 2] in metres from where mid-span meets the deck, y up, and its thickness."""

    kind: str
    points: Array
    thickness: float


def trace(image: Array, analysis: Analysis) -> tuple[Trace, ...]:
    """The deck and the members of `analysis` in metres, in the order in which they are drawn.

    The thickness is the ink across the member (grey counts by its brightness), the lower quartile along it, so that
    blur does not thicken a member, nor does another that crosses it.
    """
    grey, deck = _read(image)
    if deck is None:
        return ()
    level = np.array([[x, deck.at(x)] for x in (deck.left - 1, deck.right + 1)])
    axes = [("deck", _trimmed(grey, level), 2 * deck.half)]
    for m in analysis.members:
        axes.append((m.kind, _trimmed(grey, m.points) if m.kind == "tower" else _whole(m), m.thickness))
    origin = np.array([(WIDTH - 1) / 2, deck.at((WIDTH - 1) / 2)])
    traces = []
    for kind, axis, drawn in axes:
        points = (approximate_polygon(axis, _STRAIGHT) - origin) * (METRES, -METRES)
        traces.append(Trace(kind, points, max(_thickness(grey, axis, drawn) * METRES, _THINNEST)))
    return tuple(traces)


def _read(image: Array) -> tuple[Array, Deck | None]:
    """The canvas of a picture and the deck on it."""
    grey, enlarged = inking.canvas(image)
    return grey, inking.find_deck(inking.find_ink(grey, enlarged).mask)


def _whole(member: Member) -> Array:
    """The axis of a member in pixels, carried on to what holds its ends."""
    points, at = member.points, member.at
    if np.hypot(*(points[[0, -1]] - at).T).sum() > np.hypot(*(points[[0, -1]] - at[::-1]).T).sum():
        at = at[::-1]
    inside = [p for p in points if min(np.hypot(*(p - at[0])), np.hypot(*(p - at[1]))) >= 1]
    return np.array([at[0], *inside, at[1]])


def _trimmed(grey: Array, axis: Array) -> Array:
    """The part of an axis between the places where its ink begins and ends, at half its brightness.

    A recognised tower reaches higher than its ink, to meet cables over its top; the ends of a deck are blurred.
    """
    steps = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(axis, axis=0).T))])
    where = np.arange(0, steps[-1], _FINE)
    fine = np.stack([np.interp(where, steps, axis[:, k]) for k in (0, 1)], 1)
    ink = ndimage.map_coordinates(grey, fine.T[::-1], order=1, mode="nearest")
    drawn = np.flatnonzero(ink >= 0.5 * np.median(ink))
    return fine[[drawn[0], drawn[-1]]]


def _thickness(grey: Array, axis: Array, drawn: float) -> float:
    """Pixels of full ink across the member along `axis`, which is about `drawn` pixels thick."""
    steps = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(axis, axis=0).T))])
    where = np.linspace(0, steps[-1], max(int(steps[-1] / _APART), 1) + 2)[1:-1]
    centre = np.stack([np.interp(where, steps, axis[:, k]) for k in (0, 1)], 1)
    ahead, behind = (np.stack([np.interp(where + d, steps, axis[:, k]) for k in (0, 1)], 1) for d in (1, -1))
    way = ahead - behind
    square = np.stack([-way[:, 1], way[:, 0]], 1) / np.maximum(np.hypot(*way.T), 1e-9)[:, None]
    across = np.arange(-drawn / 2 - _BESIDE, drawn / 2 + _BESIDE + 0.25, 0.5)
    at = centre[:, None] + across[:, None] * square[:, None]
    ink = ndimage.map_coordinates(grey, [at[..., 1], at[..., 0]], order=1, mode="nearest")
    return float(np.percentile(0.5 * ink.sum(1), 25))


def svg(image: Array, analysis: Analysis, name: str) -> str:
    """The members that `analysis` found in `image` as an SVG file in metres, titled `name`.

    One unit of the drawing is a metre, and a metre is a millimetre of paper (1 : 1000). x runs right from mid-span,
    y down from the deck's centre line there, as SVG has it. One group for each kind of member, one line for each
    member, as thick as it is drawn. The sheet is the picture's own canvas. Without a deck, an empty sheet.
    """
    traces = trace(image, analysis)
    deck = _read(image)[1]
    row = deck.at((WIDTH - 1) / 2) if deck else (HEIGHT - 1) / 2
    left, top, width, height = (v * METRES for v in (-WIDTH / 2, -row - 0.5, WIDTH, HEIGHT))
    kinds = dict.fromkeys(t.kind for t in traces)
    groups = [_group(kind, [t for t in traces if t.kind == kind]) for kind in kinds]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<!-- One unit is one metre, at 1 : 1000 on paper. Origin: mid-span on the deck's axis. y runs down. -->",
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.2f}mm" height="{height:.2f}mm" '
            f'viewBox="{left:.3f} {top:.3f} {width:.3f} {height:.3f}">',
            f"<title>{_text(name)}</title>",
            "<desc>Centre lines of the recognised members in metres; stroke widths are thicknesses as drawn.</desc>",
            *groups,
            "</svg>",
            "",
        ]
    )


def _group(kind: str, traces: list[Trace]) -> str:
    """The group of all members of a kind."""
    lines = [f'<g id="{kind}" fill="none" stroke="{_COLOURS[kind]}" stroke-linejoin="round">']
    for t in traces:
        points = " ".join(f"{x + 0.0:.2f},{-y + 0.0:.2f}" for x, y in np.round(t.points, 2))
        what = f"{kind}, {length(t.points):.1f} m long, {t.thickness:.2f} m thick"
        lines.append(f'<polyline points="{points}" stroke-width="{t.thickness:.2f}"><title>{what}</title></polyline>')
    return "\n".join([*lines, "</g>"])


def _text(name: str) -> str:
    """`name` as XML text: markup escaped, characters that XML does not know left out."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", name))


def forces(image: Array, analysis: Analysis) -> Array:
    """`force_drawing.draw` as a picture without title or margins, uint8 [h, w, 3]."""
    width, height = _SHEET
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    force_drawing.draw(image, analysis, axes)
    axes.set_title("", loc="left")
    axes.axis("off")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

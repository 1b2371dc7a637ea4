"""The recognised structure drawn over its picture: axial forces in colour, supports, the deflected shape."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from bridge_ebm import ink
from bridge_ebm.structure import Analysis

TENSION, COMPRESSION, IDLE = "#1f5fd0", "#d03a1f", "#9a9a9a"
_SHOWN_SAG = 6.0  # canvas pixels that the largest displacement is drawn as
_WIDEST = 5.0  # points, of the largest force


def draw(image: np.ndarray, analysis: Analysis, axes: Axes | None = None) -> Figure | None:
    """Draw `analysis` over `image` (as `structure.analyse` takes it), dark on white.

    Blue members pull, red ones press, as wide as the square root of their force; grey dashed ones carry nothing.
    Triangles are supports, crosses ends in the air; thin green lines are what carries load after loading, the largest
    displacement drawn 6 pixels large. Returns a new Figure, or draws into `axes` and returns None. Raises `InputError`
    on a bad picture.
    """
    grey, _ = ink.canvas(image)
    figure = None
    if axes is None:
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        axes = figure.add_subplot()
    axes.imshow(1 - 0.35 * grey, cmap="gray", vmin=0, vmax=1)
    _draw_forces(axes, analysis)
    _draw_deflection(axes, analysis)
    for support in analysis.supports:
        axes.plot(support.x, support.y + 3, "^", color="black", markersize=8)
    for member in analysis.members:
        for end in (0, 1):
            if member.ends[end] == "free" and member.kind != "tower":
                axes.plot(*member.at[end], "x", color=COMPRESSION, markersize=9)
    axes.set(xlim=(-0.5, ink.WIDTH - 0.5), ylim=(ink.HEIGHT - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_title(f"{analysis.verdict}: {'; '.join(analysis.reasons)}", fontsize=9, loc="left", wrap=True)
    return figure


def _draw_forces(axes: Axes, analysis: Analysis) -> None:
    largest = max((abs(f.axial) for f in analysis.forces), default=0.0) or 1.0
    idle = [f for f in analysis.forces if f.idle]
    busy = [f for f in analysis.forces if not f.idle]
    widths = [0.8 + (_WIDEST - 0.8) * float(np.sqrt(abs(f.axial) / largest)) for f in busy]
    colours = [TENSION if f.axial > 0 else COMPRESSION for f in busy]
    axes.add_collection(LineCollection([[f.start, f.end] for f in busy], linewidths=widths, colors=colours))
    axes.add_collection(LineCollection([[f.start, f.end] for f in idle], linewidths=1.5, colors=IDLE, linestyles="--"))


def _draw_deflection(axes: Axes, analysis: Analysis) -> None:
    pieces = [
        (np.array([f.start, f.end]), np.array([f.moved_start, f.moved_end])) for f in analysis.forces if not f.idle
    ]
    if not pieces:
        return
    sag = max(float(np.abs(after - before).max()) for before, after in pieces)
    scale = _SHOWN_SAG / max(sag, 1e-9)
    shown = [before + scale * (after - before) for before, after in pieces]
    axes.add_collection(LineCollection(shown, linewidths=0.7, colors="#1d8a3a"))

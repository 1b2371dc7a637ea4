"""Pictures and curves for people: bridges dark on white, as in the paper's figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bridge_ebm.data import to_uint8

CURVES = ("loss", "regression", "reg", "cdiv", "real", "fake")  # of which the paper's Fig. 4 has all but the second
# The paper's Fig. 4 leaves out the first epochs, whose values dwarf the rest.
EPOCHS_LEFT_OUT = 3
MOST_PIXELS = 65000  # a side; matplotlib refuses 2^16


def sheet(images: np.ndarray, columns: int, gap: int = 4) -> np.ndarray:
    """Images float [N, H, W, 1] in [-1, 1] on one uint8 page, dark on white, `columns` a row, separated by `gap`
    grey pixels.
    """
    inverted = 255 - to_uint8(np.asarray(images))
    count, height, width = inverted.shape
    rows = -(-count // columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 210, np.uint8)
    for index, picture in enumerate(inverted):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        page[top : top + height, left : left + width] = picture
    return page


def save_png(path: Path, page: np.ndarray) -> None:
    """Write a uint8 page [H, W] as an 8-bit grey PNG."""
    Image.fromarray(page).save(path)


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws without a display, `width` x `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Fig. 4: those of `CURVES` that have values, over the updates; each update thin, the mean of each epoch bold.

    `rows` are the objects of metrics.jsonl. The paper's training logs the paper's five curves; gradient regression has
    its error, and from its finish on all but `reg`. The first three epochs are left out when there are more.
    """
    last = max((row["epoch"] for row in rows), default=0)
    rows = [row for row in rows if last <= EPOCHS_LEFT_OUT or row["epoch"] > EPOCHS_LEFT_OUT]
    names = [name for name in CURVES if any(row[name] is not None for row in rows)] or ["loss"]
    figure = new_figure(3 * len(names), 3)
    steps = np.array([row["step"] for row in rows], float)
    epochs = np.array([row["epoch"] for row in rows])
    present = np.unique(epochs)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        values = np.array([np.nan if row[name] is None else row[name] for row in rows], float)
        axes.plot(steps, values, color="0.7", linewidth=0.8)
        if len(present) > 1:
            means = [_finite_mean(values[epochs == epoch]) for epoch in present]
            axes.plot([steps[epochs == epoch].mean() for epoch in present], means, color="C0", marker=".")
        axes.set_title(name)
        axes.set_xlabel("update")
    figure.savefig(path, dpi=110)


def _finite_mean(values: np.ndarray) -> float:
    """The mean of the finite ones of `values` [N], NaN where there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def plot_frames(path: Path, frames: np.ndarray, energies: np.ndarray, titles: Sequence[str]) -> None:
    """Fig. 5: images [F, B, H, W, 1] as one row per chain and one column per frame, each under its energy [F, B]."""
    count, chains, height, width = frames.shape[:4]
    figure = new_figure(4.0 * count, (4.0 * height / width + 0.35) * chains + 0.4)
    grid = figure.subplots(chains, count, squeeze=False)
    for column, title in enumerate(titles):
        for row in range(chains):
            axes = grid[row, column]
            axes.imshow(-frames[column, row, :, :, 0], cmap="gray", vmin=-1, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            energy = f"E = {energies[column, row]:.3f}"
            axes.set_title(f"{title}\n{energy}" if row == 0 else energy, fontsize=9)
    figure.savefig(path, dpi=min(110.0, MOST_PIXELS / max(figure.get_size_inches())))

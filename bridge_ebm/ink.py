"""What a picture of a bridge is drawn with: its canvas, its ink, the deck, the piers and towers.

Everything here is measured in pixels of one canvas of 128 x 512, whatever the size of the picture: x to the right,
y down, pixel centres at whole numbers.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import remove_small_objects, skeletonize

from bridge_ebm.errors import InputError

HEIGHT, WIDTH = 128, 512
METRES = 300 / 475.34  # a canvas pixel, from the paper's 300 m of deck
DEEP = 28  # pixels below the deck from which the ground may lie
_MOST_INK, _MOST_PIECES, _MOST_LINE = 0.35, 150, 6500  # beyond these a picture is noise: refused before the graph
_SPECK = 12  # pixels
_NOISY = 0.0035  # share of white
_ASIDE = 2  # pixels beside its pier in which a thin tower is looked for; farther off it stands on the deck alone
_TOWER = 14  # pixels above the deck: what reaches higher over a pier is a tower

Array = np.ndarray


class Ink(NamedTuple):
    """Where the picture is drawn on: masks [128, 512], and the grey level of the ground.

    `mask` holds the lines, `whole` the same before lines that run together were parted, `faint` all traces of ink.
    """

    mask: Array
    whole: Array
    faint: Array
    noise: float


class Deck(NamedTuple):
    """The deck's centre line y = row + slope x from `left` to `right`, half its thickness, and how whole it is.

    `gap` is the longest break in pixels, `cover` the share of its columns that are drawn.
    """

    row: float
    slope: float
    left: float
    right: float
    half: float
    gap: int
    cover: float

    def at(self, x: float) -> float:
        """Y of the centre line."""
        return self.row + self.slope * x


class Upright(NamedTuple):
    """A pier or, above the deck, a tower: a bar half wide `half` from row `top` to row `bottom`, where it is at `x`.

    `slope`: pixels to the right for every pixel down; 0 for all but the legs of leaning towers.
    """

    x: float
    half: float
    top: float
    bottom: float
    tower: bool
    slope: float = 0.0

    def at(self, y: float) -> float:
        """X of the axis in row `y`."""
        return self.x + self.slope * (y - self.bottom)


def canvas(image: Array) -> tuple[Array, bool]:
    """The picture as float [128, 512] in [0, 1], and whether it had to be enlarged for that.

    Takes uint8, or floats in [-1, 1] or [0, 1], [H, W] or [H, W, 1]. Raises `InputError` on anything else.
    """
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or min(array.shape) < 8:
        raise InputError(f"a picture must be [H, W] or [H, W, 1] and at least 8 x 8, not {list(np.shape(image))}")
    if array.dtype == np.uint8:
        grey = array.astype(np.float32) / 255
    elif np.issubdtype(array.dtype, np.floating):
        grey = array.astype(np.float32)
        if not np.isfinite(grey).all():
            raise InputError("a picture must hold finite numbers only")
        if np.abs(grey).max() > 1.5:
            raise InputError("a picture of floats must lie in [-1, 1] or [0, 1]")
        if grey.min() < -0.5:
            grey = (grey + 1) / 2
    else:
        raise InputError(f"a picture must be uint8 or floating point, not {array.dtype}")
    enlarged = array.shape[0] < 0.75 * HEIGHT or array.shape[1] < 0.75 * WIDTH
    if grey.shape != (HEIGHT, WIDTH):
        resized = Image.fromarray(grey).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grey = np.asarray(resized)
    return np.clip(grey, 0, 1), enlarged


def find_ink(grey: Array, enlarged: bool) -> Ink:
    """Hysteresis thresholds, lower for an enlarged picture (its thin lines are fainter), higher on a noisy ground.

    On a noisy ground the picture is smoothed first: thin grey stays lose half their height, the noise two thirds.
    """
    soft = ndimage.gaussian_filter(grey, 1.0)
    # Blurring changes the ground little, unless it is noise, and ground is more than half of the densest bridge.
    noise = float(np.median(np.abs(grey - soft)))
    low, high = (0.08, 0.16) if enlarged else (0.09, 0.16)
    seen = grey
    if noise > _NOISY:
        seen = soft
        ground = float(np.median(seen))
        spread = float(np.percentile(seen, 75)) - ground
        low, high = max(low, ground + 5 * spread), max(high, ground + 8 * spread)
    mask = apply_hysteresis_threshold(seen, low, high)
    whole = mask
    # Lines two pixels apart run into one another: keep only what stands out from around it.
    mask = mask & (seen > 0.8 * ndimage.gaussian_filter(seen, 3.0))
    mask = remove_small_objects(mask, max_size=_SPECK - 1, connectivity=2)
    faint = seen > 0.6 * low
    return Ink(mask, whole, grown(faint) if enlarged else faint, noise)


def grown(values: Array) -> Array:
    """The largest value [H, W] in the 3 x 3 pixels about each; for masks, a pixel more all around."""
    tall = values.copy()
    np.maximum(tall[1:], values[:-1], out=tall[1:])
    np.maximum(tall[:-1], values[1:], out=tall[:-1])
    wide = tall.copy()
    np.maximum(wide[:, 1:], tall[:, :-1], out=wide[:, 1:])
    np.maximum(wide[:, :-1], tall[:, 1:], out=wide[:, :-1])
    return wide


def trouble(ink: Ink, skeleton: Array) -> str | None:
    """Why this cannot be the picture of a bridge, seen before any graph is built; None when it may be one."""
    share = float(ink.mask.mean())
    if share > _MOST_INK:
        return f"{share:.0%} of the picture is ink"
    labels = np.zeros(ink.mask.shape, np.int32)
    ndimage.label(ink.mask, np.ones((3, 3)), output=labels)
    pieces = int(labels.max())
    if pieces > _MOST_PIECES:
        return f"the ink falls into {pieces} pieces"
    if skeleton.sum() > _MOST_LINE:
        return f"{int(skeleton.sum())} pixels of line are too many for a bridge"
    return None


def find_deck(mask: Array) -> Deck | None:
    """The longest nearly level line in the middle third of the canvas; None when no row is half covered."""
    columns = np.arange(WIDTH)
    best, row, tilt = 0, 0, 0
    upto = np.zeros((HEIGHT, WIDTH + 1), np.int32)
    np.cumsum(mask, 1, out=upto[:, 1:])
    for lean in range(-5, 6):  # pixels from the middle to the right edge; 0.3 degrees are 1.3
        counts = _along_rows(upto, np.rint(lean * (columns - 255.5) / 255.5).astype(int))
        if counts.max() > best or (counts.max() == best and abs(lean) < abs(tilt)):
            best, tilt = int(counts.max()), lean
            row = HEIGHT // 3 + _middle_row(counts)
    if best < WIDTH // 3:
        return None
    guess = row + tilt * (columns - 255.5) / 255.5
    top, bottom = _runs(mask, guess)
    drawn = bottom >= top
    if not drawn.any():  # the fullest row is a tie of two lines, and lies between them
        return None
    thin = drawn & (bottom - top <= np.percentile((bottom - top)[drawn], 30) + 1)
    centre = (top + bottom) / 2
    slope, level = np.polyfit(columns[thin], centre[thin], 1)
    off = np.abs(centre - level - slope * columns)
    thin &= off <= max(1.0, 2 * float(np.median(off[thin])))
    if thin.sum() > 20:
        slope, level = np.polyfit(columns[thin], centre[thin], 1)
    half = float(np.mean((bottom - top + 1)[thin])) / 2
    line = level + slope * columns
    near = _runs(mask, line)
    drawn = near[1] >= near[0]
    where = np.flatnonzero(drawn)
    left, right = int(where[0]), int(where[-1])
    breaks = np.diff(where) - 1
    gap = int(breaks.max(initial=0))
    return Deck(float(level), float(slope), left, right, half, gap, len(where) / (right - left + 1))


def _along_rows(upto: Array, shift: Array) -> Array:
    """Ink along every row of the middle third, moved down by `shift` [WIDTH] pixels; `upto`: ink left of a column."""
    steps = [0, *(np.flatnonzero(np.diff(shift)) + 1).tolist(), WIDTH]
    first, last = HEIGHT // 3, HEIGHT - HEIGHT // 3
    counts = np.zeros(last - first, np.int64)
    for a, b in zip(steps, steps[1:], strict=False):
        rows = slice(first + shift[a], last + shift[a])
        counts += upto[rows, b] - upto[rows, a]
    return counts


def _middle_row(counts: Array) -> int:
    """The middle of the fullest rows; where two lines are about as full, as in a truss, of the thicker one."""
    starts, ends = groups(counts >= 0.98 * counts.max())
    a, b = max(zip(starts, ends, strict=True), key=lambda run: counts[max(run[0] - 2, 0) : run[1] + 2].sum())
    return int(np.median(a + np.flatnonzero(counts[a:b] == counts[a:b].max())))


def _runs(mask: Array, line: Array) -> tuple[Array, Array]:
    """First and last row of the ink that stands on `line` (within a pixel) in every column; last < first: none."""
    columns = np.arange(mask.shape[1])
    rows = np.arange(mask.shape[0])[:, None]
    start = np.clip(np.rint(line).astype(int), 1, mask.shape[0] - 2)
    for step in (-1, 1):  # where the line just misses the ink, start from the pixel beside it
        start = np.where(
            ~mask[np.rint(line).astype(int).clip(1, 126), columns]
            & mask[start + step, columns]
            & ~mask[start, columns],
            start + step,
            start,
        )
    blank_above = np.where(~mask & (rows <= start), rows, -1).max(0)
    blank_below = np.where(~mask & (rows >= start), rows, mask.shape[0]).min(0)
    return blank_above + 1, np.where(mask[start, columns], blank_below - 1, blank_above)


def find_uprights(mask: Array, deck: Deck) -> list[Upright]:
    """Piers, from the deck straight down to the ground, and the towers that stand over them."""
    columns = np.arange(WIDTH)
    line = deck.row + deck.slope * columns
    start = np.clip(np.rint(line + deck.half + 1).astype(int), 0, HEIGHT - 1)
    rows = np.arange(HEIGHT)[:, None]
    below = np.where(~mask & (rows >= start), rows, HEIGHT).min(0) - start
    lowest = below.max(initial=0)
    if lowest < DEEP:
        return []
    starts, ends = groups(below >= max(0.8 * lowest, DEEP))
    found = []
    for a, b in zip(starts, ends, strict=True):
        if b - a > 24:
            continue
        x, half = (a + b - 1) / 2, (b - a) / 2
        bottom = float(np.median((start + below)[a:b])) - 1
        if mask[int(bottom) + 4 :, max(a - 12, 0) : b + 12].any():
            continue  # a column on an arch: the arch goes lower
        found.append(Upright(x, half, deck.at(x), bottom, False))
        tower = _tower(mask, deck, a, b)
        if tower is None:
            tower = _tower(mask, deck, max(a - _ASIDE, 0), min(b + _ASIDE, WIDTH))
        else:
            tower = tower._replace(x=x, half=half, bottom=deck.at(x))
        if tower is not None:
            found.append(tower)
    return found


def _tower(mask: Array, deck: Deck, first: int, last: int) -> Upright | None:
    """The tower that stands on the deck in columns `first` to `last`, if there is one."""
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(first, last)
    up = np.clip(np.rint(deck.row + deck.slope * columns - deck.half - 1).astype(int), 0, HEIGHT - 1)
    above = up - np.where(~mask[:, first:last] & (rows <= up), rows, -1).max(0)
    if above.max() < _TOWER:
        return None
    high = above >= 0.6 * above.max()
    x, top = first + float(np.flatnonzero(high).mean()), float(np.percentile((up - above)[high], 25)) + 1
    return Upright(x, float(high.sum()) / 2, top, deck.at(x), True)


def groups(where: Array) -> tuple[list[int], list[int]]:
    """First and one past the last index of every run of true values."""
    change = np.diff(np.concatenate([[0], where.astype(int), [0]]))
    return np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist()


def find_skeleton(mask: Array) -> Array:
    """The lines of the mask, one pixel thick, bool [128, 512]."""
    return skeletonize(mask)

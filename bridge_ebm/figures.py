"""Figures 1 to 3 and 6 of arXiv 2401.17657: a column of gas, an energy landscape, the eight sub-types, new types.

Fig. 4 is `plotting.plot_curves`, Fig. 5 `plotting.plot_frames`. Numbers first, the drawing of them after.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.offsetbox import AnnotationBbox, OffsetImage, TextArea, VPacker

from bridge_ebm import bridges, langevin
from bridge_ebm.compose import energies_under
from bridge_ebm.plotting import new_figure

BOLTZMANN = 1.380649e-23  # J/K (SI, exact)
GRAVITY = 9.80665  # m/s^2 (standard gravity)
AIR_MOLECULE = 4.8096e-26  # kg, 28.9644 u: the mean molecule of dry air (US Standard Atmosphere 1976)
AIR_TEMPERATURE = 288.15  # K, at sea level in the same standard
SCALE_HEIGHT = BOLTZMANN * AIR_TEMPERATURE / (AIR_MOLECULE * GRAVITY)  # m, kT / mg: 8.43 km

# The top of the column lies so high that exp(-20) of the gas, nothing, is above it: only the ground acts as a wall.
COLUMN_HEIGHT = 20 * SCALE_HEIGHT
# (noise in scale heights per step, steps). The clip at the ground acts like a wall 0.58 noise below it (Siegmund 1985):
# coarse steps let the gas settle from uniform noise, finer ones then bring that error under 0.6% of the gas.
GAS_STAGES = ((0.1, 8000), (0.03, 4000), (0.01, 20000))

CHAINS = 6  # in Fig. 2
START_NOISE = 0.3  # standard deviation of the pixel noise on their starts
DPI = 150
INSET_WIDTH = 105  # points

TITLES = {
    "beam": "Equal-depth beam",
    "v_pier_frame": "V-pier rigid-frame beam",
    "deck_arch": "Deck arch",
    "through_arch": "Through arch",
    "harp_cable_stayed": "Harp cable-stayed",
    "fan_cable_stayed": "Fan cable-stayed",
    "vertical_suspension": "Vertical-hanger suspension",
    "diagonal_suspension": "Diagonal-hanger suspension",
}


class Plane(NamedTuple):
    """An affine plane in the space of images: `centre` [H, W, 1] and two `directions` [2, H, W, 1].

    The directions are orthogonal, each of mean square 1 over the pixels: in its coordinates, two images of it lie as
    far apart as the root of their mean squared difference (black and white: 2).
    """

    centre: np.ndarray
    directions: np.ndarray


class Landscape(NamedTuple):
    """What Fig. 2 draws: the energies [G, G] of the plane's images at `up` [G] x `across` [G], clipped to [-1, 1].

    `corners` [3, 2] are the coordinates of the three `pictures` [3, H, W, 1]. `paths` [T, N, 2] are N chains projected
    on to the plane, from start to end; `chain_energies` [2, N] are the energies at their starts and ends, off it.
    """

    pictures: np.ndarray
    corners: np.ndarray
    across: np.ndarray
    up: np.ndarray
    energies: np.ndarray
    paths: np.ndarray
    chain_energies: np.ndarray


def gas_energy(images: jax.Array) -> jax.Array:
    """Energies m g h / kT [B] of molecules [B, 1, 1, 1] in [-1, 1]: from the ground to `COLUMN_HEIGHT`."""
    heights = (images + 1) / 2 * COLUMN_HEIGHT
    return (heights / SCALE_HEIGHT).sum((1, 2, 3))


def gas_heights(key: jax.Array, count: int) -> np.ndarray:
    """Heights in metres, float [count], of molecules that the Langevin sampler took from uniform noise to equilibrium.

    No clip but the ground's is active and noise^2 / (2 step size) is 1, so that the heights follow exp(-m g h / kT).
    """
    start_key, *stage_keys = jax.random.split(key, 1 + len(GAS_STAGES))
    images = langevin.uniform_images(start_key, (count, 1, 1, 1))
    for stage_key, (noise, steps) in zip(stage_keys, GAS_STAGES, strict=True):
        noise = 2 * noise * SCALE_HEIGHT / COLUMN_HEIGHT
        settings = langevin.LangevinSettings(steps, noise**2 / 2, noise, math.inf)
        images = langevin.compiled_sample(stage_key, images, Partial(gas_energy), settings)
    return (np.asarray(images, float).reshape(-1) + 1) / 2 * COLUMN_HEIGHT


def fit_scale_height(heights: np.ndarray) -> float:
    """The scale height (metres) of greatest likelihood under n = n0 exp(-h / scale); the ground itself is left out."""
    return float(heights[heights > 0].mean())


def distance_from_law(heights: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of heights (metres) from the law (9): the largest gap between the shares below h."""
    exact = 1 - np.exp(-np.sort(heights) / SCALE_HEIGHT)
    count = len(heights)
    return float(max((np.arange(1, count + 1) / count - exact).max(), (exact - np.arange(count) / count).max()))


def plane_through(pictures: np.ndarray) -> Plane:
    """The plane through `pictures` float [3, H, W, 1], centred between them; the second lies to the right of the first.

    Raises ValueError if the three lie on one line.
    """
    across, up = pictures[1] - pictures[0], pictures[2] - pictures[0]
    length = _rms(across)
    across = across / (length or 1)
    up = up - (up * across).mean() * across
    if min(length, _rms(up)) < 1e-4:
        raise ValueError("the three pictures lie on one line: choose others")
    return Plane(pictures.mean(axis=0), np.stack([across, up / _rms(up)]))


def project(plane: Plane, images: np.ndarray | jax.Array) -> np.ndarray:
    """Coordinates [N, 2] of the points of the plane nearest to `images` [N, H, W, 1]."""
    offsets = np.asarray(images) - plane.centre
    return np.einsum("nhwc,dhwc->nd", offsets, plane.directions) / plane.centre.size


def lift(plane: Plane, coordinates: np.ndarray) -> np.ndarray:
    """The images [N, H, W, 1] at `coordinates` [N, 2] of the plane; they may leave [-1, 1]."""
    return plane.centre + np.einsum("nd,dhwc->nhwc", coordinates, plane.directions)


def landscape(
    key: jax.Array,
    pictures: np.ndarray,
    energy_fn: langevin.EnergyFn,
    settings: langevin.LangevinSettings,
    grid: int = 61,
) -> Landscape:
    """Energies over the plane through three `pictures` [3, H, W, 1], and chains of `settings` that start near it.

    The starts lie on a ring around the pictures, off the plane by pixel noise of `START_NOISE`, clipped to [-1, 1].
    `energy_fn` is a `Partial`, as `Model.energy` returns it.
    """
    plane = plane_through(pictures)
    corners = project(plane, pictures)
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.45 * (high - low).max()
    across, up = (np.linspace(low[axis] - margin, high[axis] + margin, grid) for axis in (0, 1))
    angles = np.linspace(0, 2 * np.pi, CHAINS, endpoint=False) + 0.3
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = (low + high) / 2 + ((high - low) / 2 + 0.7 * margin) * circle
    paths, chain_energies = _chains(key, plane, ring, energy_fn, settings)
    energies = _plane_energies(plane, across, up, energy_fn)
    return Landscape(pictures, corners, across, up, energies, paths, chain_energies)


def _plane_energies(plane: Plane, across: np.ndarray, up: np.ndarray, energy_fn: langevin.EnergyFn) -> np.ndarray:
    """Energies [len(up), len(across)] of the plane's clipped images, one row of the grid a batch."""
    rows = [np.stack([across, np.full_like(across, y)], axis=1) for y in up]
    return np.stack([np.asarray(energies_under(energy_fn, _clipped(lift(plane, row)))) for row in rows])


def _chains(
    key: jax.Array,
    plane: Plane,
    points: np.ndarray,
    energy_fn: langevin.EnergyFn,
    settings: langevin.LangevinSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Chains from near `points` [N, 2]: their projected paths [T, N, 2], and energies [2, N] at starts and ends."""
    noise_key, chain_key = jax.random.split(key)
    images = lift(plane, points)
    starts = jnp.asarray(_clipped(images + START_NOISE * np.asarray(jax.random.normal(noise_key, images.shape))))
    # Chains move fastest at first: the moments kept are evenly spaced on a logarithmic scale.
    frames = tuple(np.unique(np.geomspace(1, settings.num_steps, 80).astype(int) - 1).tolist())
    result = langevin.compiled_trajectory(chain_key, starts, energy_fn, settings, frames)
    paths = np.stack([project(plane, images) for images in (starts, *result.frames)])
    return paths, np.stack([energies_under(energy_fn, images) for images in (starts, result.images)])


def _clipped(images: np.ndarray) -> np.ndarray:
    return np.clip(images, -1, 1).astype(np.float32)


def _rms(image: np.ndarray) -> float:
    return float(np.sqrt((image**2).mean()))


def draw_gas(path: Path, heights: np.ndarray) -> None:
    """Fig. 1: molecules at `heights` (metres), and their density beside n = n0 exp(-m g h / kT) on two scales."""
    top, width = 50.0, 1.0  # km
    km, scale = heights / 1000, SCALE_HEIGHT / 1000
    edges = np.arange(0, top + width, width)
    counts = np.histogram(km, edges)[0]
    unit = scale / width / len(km)  # n / n0 of one molecule in a bin
    altitude = np.linspace(0, top, 200)
    figure = new_figure(11, 4.8)
    column, linear, logarithmic = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.6, 1.6))
    column.scatter(np.random.default_rng(0).random(len(km)), km, s=1.5, color="C0", linewidths=0)
    column.set(ylim=(0, top), xticks=[], xlabel=f"{len(km)} molecules", ylabel="height h (km)")
    bars = {"orientation": "horizontal", "fill": True, "color": "C0", "alpha": 0.45}
    linear.stairs(counts * unit, edges, label="Langevin sampler", **bars)
    points = {"fmt": ".", "color": "C0", "elinewidth": 1}
    middles = (edges[:-1] + edges[1:]) / 2
    logarithmic.errorbar(counts * unit, middles, xerr=np.sqrt(counts) * unit, label="Langevin sampler", **points)
    for axes in (linear, logarithmic):
        axes.plot(np.exp(-altitude / scale), altitude, color="k", label=r"$n = n_0\,e^{-mgh/kT}$")
        axes.set_xlabel(r"number density $n\,/\,n_0$")
        axes.legend(frameon=False, loc="upper right")
    linear.set_xlim(0, 1.1)
    logarithmic.set(xscale="log", xlim=(unit / 2, 2))
    figure.suptitle(
        f"Air at {AIR_TEMPERATURE:.0f} K under gravity: scale height kT/mg {fit_scale_height(heights) / 1000:.2f} km "
        f"as sampled, {scale:.2f} km exact"
    )
    figure.savefig(path, dpi=DPI)


def draw_landscape(path: Path, drawn: Landscape, titles: Sequence[str]) -> None:
    """Fig. 2: filled contours of the energy, the three pictures with their `titles`, and the chains."""
    figure = new_figure(9, 6.4)
    axes = figure.subplots()
    filled = axes.contourf(drawn.across, drawn.up, drawn.energies, 24, cmap="viridis")
    figure.colorbar(filled, label="energy E (low = looks real)")
    axes.plot(*drawn.paths.transpose(2, 0, 1), color="w", linewidth=1.5)
    axes.plot(*drawn.paths[0].T, "o", color="w", markeredgecolor="k", label="chain: start")
    axes.plot(*drawn.paths[-1].T, "^", color="C3", markeredgecolor="k", markersize=9, label="chain: end")
    axes.plot(*drawn.corners.T, "s", color="C1", markeredgecolor="k", markersize=8, label="real picture")
    for picture, corner, title in zip(drawn.pictures, drawn.corners, titles, strict=True):
        _inset(axes, picture, corner, title)
    axes.set_aspect("equal")
    axes.set(xlabel="across the plane (r.m.s. grey, black to white = 2)", ylabel="up the plane (r.m.s. grey)")
    axes.legend(loc="upper left")
    start, end = drawn.chain_energies.mean(axis=1)
    axes.set_title(
        "Energy over the plane through three bridges, and Langevin chains projected on to it\n"
        f"(the chains leave the plane: mean E = {start:.2f} at their starts, {end:.2f} at their ends)",
        fontsize=10,
    )
    figure.savefig(path, dpi=DPI)


def _inset(axes: Axes, picture: np.ndarray, corner: np.ndarray, title: str) -> None:
    """A small `picture` [H, W, 1] under its `title`, joined to its place `corner` [2], away from the origin."""
    zoom = INSET_WIDTH / picture.shape[1]
    image = OffsetImage(-picture[..., 0], zoom=zoom, cmap="gray", norm=Normalize(-1, 1), interpolation="antialiased")
    box = VPacker(children=[TextArea(title, textprops={"fontsize": 9}), image], align="center", pad=0, sep=2)
    side = 1 if corner[1] > 0 else -1
    axes.add_artist(
        AnnotationBbox(
            box,
            tuple(corner),
            xybox=(0, 62 * side),
            boxcoords="offset points",
            pad=0.2,
            arrowprops={"arrowstyle": "-", "color": "k"},
        )
    )


def draw_subtypes(path: Path, height: int = 128, width: int = 512) -> None:
    """Fig. 3: the eight sub-types at the eighth of their 16 member widths, dark on white."""
    figure = new_figure(11, 6.6)
    for axes, subtype in zip(figure.subplots(4, 2).flat, bridges.SUBTYPES, strict=True):
        picture = bridges.render(subtype, bridges.WIDTHS // 2 - 1, height, width)
        axes.imshow(255 - picture, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[], title=TITLES[subtype])
    figure.savefig(path, dpi=DPI)


def draw_designs(path: Path, pictures: np.ndarray, names: Sequence[str], columns: int = 3) -> None:
    """Fig. 6: new types, uint8 `pictures` [N, H, W] bright on black, shown dark on white under their `names`."""
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1:]
    figure = new_figure(4.2 * columns, (4.2 * height / width + 0.55) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, name in zip(grid.flat, pictures, names, strict=False):
        axes.imshow(255 - picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title("\n".join(textwrap.wrap(name, 52)), fontsize=8)
    figure.savefig(path, dpi=DPI)

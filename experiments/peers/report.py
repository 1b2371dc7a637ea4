"""The figures of a benchmark for people: a table on screen and a plot of how the cost grows."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from bridge_ebm.plotting import new_figure
from peers.timing import exponent

TITLES = {"batch": "batch", "steps": "Langevin steps", "area": "pixels of an image"}
COSTS = {"batch": "seconds per step", "steps": "seconds per chain", "area": "seconds per image and step"}


def size_and_cost(entry: dict[str, Any]) -> tuple[float, float]:
    """What grows along the series of a `scaling` entry, and what it costs in seconds."""
    seconds = 1.0 / entry["per_second"]
    if entry["what"] == "batch":
        return entry["batch"], entry["batch"] * seconds
    if entry["what"] == "steps":
        return entry["steps"], entry["steps"] * entry["batch"] * seconds
    return entry["height"] * entry["width"], seconds


def series_of(scaling: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The entries of each series; those of `batch` are told apart by their image size."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in scaling:
        name = f"batch at {entry['height']} x {entry['width']}" if entry["what"] == "batch" else entry["what"]
        groups.setdefault(name, []).append(entry)
    return groups


def exponents(scaling: list[dict[str, Any]]) -> dict[str, float]:
    """The fitted exponent of each series: 1 is a cost in proportion, less is better than that."""
    return {
        name: exponent(*zip(*map(size_and_cost, entries), strict=True))[0]
        for name, entries in series_of(scaling).items()
    }


def plot_scaling(path: Path, scaling: list[dict[str, Any]]) -> None:
    """Cost against batch, steps and image area, on logarithmic axes, with the fitted power laws."""
    figure = new_figure(13, 4)
    panels = dict(zip(TITLES, figure.subplots(1, len(TITLES)), strict=True))
    for name, entries in series_of(scaling).items():
        axes = panels[entries[0]["what"]]
        sizes, costs = np.array([size_and_cost(entry) for entry in entries]).T
        p, factor = exponent(sizes, costs)
        (line,) = axes.plot(sizes, costs, "o", label=f"{name}: exponent {p:.2f}")
        axes.plot(sizes, factor * sizes**p, color=line.get_color(), linewidth=1)
    for what, axes in panels.items():
        axes.set(xscale="log", yscale="log", xlabel=TITLES[what], ylabel=COSTS[what])
        ticks = sorted({size_and_cost(entry)[0] for entry in scaling if entry["what"] == what})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="both", color="0.9")
        if axes.lines:
            axes.legend(fontsize=9)
    figure.savefig(path, dpi=110)


def print_table(record: dict[str, Any]) -> None:
    """The peers' speeds, each with its spread and beside our float32."""
    for title, key in (
        ("Langevin image-steps per second", "langevin_images_per_second"),
        ("contrastive-divergence updates per second", "update_per_second"),
        ("gradient-regression updates per second", "regression_update_per_second"),
    ):
        print(f"\n{title:46} median    (min .. max)       of ours_float32")
        ours = record[key]["ours_float32"]["median"]
        for name, speed in record[key].items():
            if speed is None:
                print(f"  {name:44} -")
            else:
                low, middle, high = (f"{speed[part]:.4g}" for part in ("min", "median", "max"))
                print(f"  {name:44} {middle:>7}   ({low} .. {high})".ljust(76) + f"{speed['median'] / ours:.2f} x")
    first, gflops, share = (
        record["first_picture_seconds"],
        record["matmul_gflops"],
        record["conditions"]["share_of_peak"],
    )
    print(f"\nfirst picture: {first['cold']:.1f} s cold, {first['warm']:.1f} s with a warm compilation cache")
    print(f"peak memory of the training step: {record['peak_memory_mib']:.0f} MiB")
    for name, value in gflops.items():
        print(f"matrix product in {name}: {value:.0f} GFLOP/s; the chain reaches {100 * share[name]:.0f}% of it")
    print(
        "cost grows with the power: " + ", ".join(f"{k} {v:.2f}" for k, v in record["conditions"]["exponents"].items())
    )

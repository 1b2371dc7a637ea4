"""Fair timing: contenders take turns, each figure is a median with its spread, a cost is fitted by a power law."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm.auto import tqdm

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def interleaved(
    runs: Mapping[str, Callable[[], object]], units: Mapping[str, float], repeats: int, title: str
) -> dict[str, Spread]:
    """Units per second of each run, taking turns in an order that is drawn anew for every round.

    `units[name]` says how many units (image-steps, updates) one call does. The first round warms up (compiles, fills
    caches) and is not counted. In one fixed order every contender would always follow the same one, and a shared
    machine is slow for seconds after a contender that kept all cores busy.
    """
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    with tqdm(total=(repeats + 1) * len(runs), desc=title, dynamic_ncols=True) as bar:
        for turn in range(repeats + 1):
            shuffle(order)
            for name in order:
                bar.set_postfix_str(name)
                began = time.perf_counter()
                runs[name]()
                took = time.perf_counter() - began
                if turn:
                    speeds[name].append(units[name] / took)
                bar.update()
    return {name: spread(values) for name, values in speeds.items()}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """The power law cost = factor * size^p that fits best in the logarithms: (p, factor)."""
    p, log_factor = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(p), math.exp(log_factor)

"""The contenders of `benchmark.py`: Table 1's network, its Langevin chain and its training step, in several frameworks.

Each is a `Peer` with the same four functions, made from the same weights, settings and pictures. Arrays go in and come
out as NumPy's, so that a call has finished when it returns.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Peer(NamedTuple):
    """One contender.

    `energies(images [B, H, W, 1])` gives the energies [B]. `chain(starts [B, H, W, 1], steps, noise)` gives the images
    after that many steps of equation (12); with noise 0 all peers must agree. `make_update()` sets up a training
    (network, optimiser, buffer) and returns the function that does one contrastive-divergence update and returns its
    loss. `tolerance` is the relative difference from our float32 energies that its precision explains.
    """

    name: str
    tolerance: float
    energies: Callable[[np.ndarray], np.ndarray]
    chain: Callable[[np.ndarray, int, float], np.ndarray]
    make_update: Callable[[], Callable[[], float]]


FLOAT32_TOLERANCE = 1e-4
BFLOAT16_TOLERANCE = 3e-2

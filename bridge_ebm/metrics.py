"""All measures of pictures and energies under one name: arrays in, numbers out.

Pictures are uint8 [N, H, W], bright on black. The measures themselves are in definition.py, novelty.py, features.py and
fidelity.py; here are the two that need no module of their own.
"""

import numpy as np

from bridge_ebm.definition import (
    Definition,
    RealRange,
    blends_decidable,
    checked,
    definition,
    in_range,
    is_sharp,
    real_range,
)
from bridge_ebm.features import features
from bridge_ebm.fidelity import (
    Estimate,
    Memorisation,
    fidelity,
    frechet,
    gaussian_distance,
    manifolds,
    memorisation,
    share,
    shares,
)
from bridge_ebm.novelty import (
    NOVEL,
    Novelty,
    Reference,
    distinct,
    mismatch,
    novelty,
    pairwise_mismatch,
    paper_reference,
    reference,
)

__all__ = [
    "NOVEL",
    "Definition",
    "Estimate",
    "Memorisation",
    "Novelty",
    "RealRange",
    "Reference",
    "auc",
    "blends_decidable",
    "definition",
    "distinct",
    "features",
    "fidelity",
    "frechet",
    "gaussian_distance",
    "in_range",
    "ink_kept",
    "is_sharp",
    "manifolds",
    "memorisation",
    "mismatch",
    "novelty",
    "pairwise_mismatch",
    "paper_reference",
    "real_range",
    "reference",
    "share",
    "shares",
]


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """Chance that an energy of `low` [M] lies below one of `high` [N], ties counted half: 1 where all do, 0.5 where
    nothing tells them apart. NaN where an energy is not finite.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if low.ndim != 1 or high.ndim != 1 or not low.size or not high.size:
        raise ValueError(f"two lists of energies are needed, not arrays of {list(low.shape)} and {list(high.shape)}")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return float("nan")
    ordered = np.sort(high)
    above = len(high) - np.searchsorted(ordered, low, "right")
    level = np.searchsorted(ordered, low, "right") - np.searchsorted(ordered, low, "left")
    return float((above + level / 2).sum() / (len(low) * len(high)))


def ink_kept(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of each picture's ink that a chain left in its place: sum min(before, after) / sum before, float [N].

    Pictures uint8 [N, H, W]. 1: nothing was lost; what was added does not count. NaN for a picture without ink.
    """
    if checked(before).shape != checked(after).shape:
        raise ValueError(f"pictures of {list(before.shape)} and {list(after.shape)}: the same pictures are needed")
    ink = before.sum(axis=(1, 2), dtype=np.float64)
    left = np.minimum(before, after).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(left, ink, out=np.full(len(ink), np.nan), where=ink > 0)

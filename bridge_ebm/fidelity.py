"""How near a set of pictures is to the real ones, and how much of their variety it has, in the space of features.py.

frechet     squared distance of the Gaussians fitted to the two sets (Dowson and Landau 1982; Heusel et al. 2017)
precision   share of generated pictures within the manifold of the real ones, the balls about each real picture that
            reach its k-th nearest real neighbour (Kynkaanniemi et al. 2019)
recall      the same with the roles exchanged
density     mean number of real balls that hold a generated picture, over k; may exceed 1 (Naeem et al. 2020)
coverage    share of real balls that hold a generated picture (Naeem et al. 2020)

All need a ceiling, what as many training pictures score against the same real ones: by it 1 is out of reach.

Intervals are 95% ones over the generated pictures, the real ones fixed: of shares of the generated pictures Wilson's
(1927), which say something of 0 and 1 too, of all else bootstrap ones. Balls keep the radii of the whole sets, as
drawing a picture twice would shrink them. A resample holds only 63% of the pictures, which alone makes some
figures worse, so the spread of the resamples is taken about their own mean and laid about the figure. Resampling is
the only place where chance plays a part: NumPy's PCG64, seed 0, whose stream NumPy may change between versions, which
would move the ends of intervals within their own uncertainty.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

NEIGHBOURS = 5
RESAMPLES = 200
_TAILS = (2.5, 97.5)
Array = np.ndarray


class Estimate(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


class Memorisation(NamedTuple):
    """How near generated pictures are to the training pictures, against how near held-out ones are.

    `share`: of the generated pictures, those nearer to a training picture than all but 5% of the held-out ones (0.05
    for held-out pictures themselves, 1 for copies). `median_ratio`: median distance to the nearest training picture,
    over that of the held-out ones (1 for those, 0 for copies).
    """

    share: Estimate
    median_ratio: float


def gaussian_distance(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """Squared Frechet distance |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) of two Gaussians [D]."""
    spread = _mixed(covariance_a, covariance_b)[0]
    apart = ((mean_a - mean_b) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b)
    return max(float(apart - 2 * np.sqrt(spread).sum()), 0.0)  # rounding


def _mixed(covariance_a: Array, covariance_b: Array) -> tuple[Array, Array]:
    """Eigenvalues [D] of M = C_a^1/2 C_b C_a^1/2, and C_a^1/2 times its eigenvectors [D, D]."""
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    spread, axes = np.linalg.eigh(root @ covariance_b @ root)
    return np.maximum(spread, 0), root @ axes


def frechet(real: Array, fake: Array) -> Estimate:
    """Frechet distance, squared as the FID is, between features [M, D] and [N, D], at least two pictures each.

    A small N makes it larger: compare with a ceiling of as many pictures. The interval resamples what each picture adds
    to the distance to first order, 2 (m_b - m_a) . x + x^T (1 - T) x for x from the generated mean, with T the map
    that takes one Gaussian to the other.
    """
    real, fake = _checked(real, fake)
    apart, covariance_a, covariance_b = fake.mean(0) - real.mean(0), np.cov(real.T), np.cov(fake.T)
    spread, axes = _mixed(covariance_a, covariance_b)
    value = (apart**2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(spread).sum()
    seen = spread > 1e-9 * max(spread[-1], 1e-30)
    away = fake - fake.mean(0)
    mapped = ((away @ axes[:, seen]) ** 2 / np.sqrt(spread[seen])).sum(1)
    adds = 2 * away @ apart + (away**2).sum(1) - mapped
    adds += max(float(value), 0.0) - adds.mean()
    return _bootstrapped(len(fake), lambda chosen: float(adds[chosen].mean()), math.inf)


def manifolds(real: Array, fake: Array, k: int = NEIGHBOURS) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of features `fake` [N, D] against `real` [M, D], more than k each."""
    real, fake = _checked(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{len(real)} real and {len(fake)} generated pictures: more than {k} of each are needed")
    apart = distances(real, fake)
    in_real: Array = np.less_equal(apart, _radii(real, k)[:, None])
    in_fake: Array = np.less_equal(apart, _radii(fake, k)[None, :])
    by_fake = np.ascontiguousarray(np.stack([in_real, in_fake]).transpose(0, 2, 1))  # [2, N, M]
    held = np.asarray(in_real.any(0))
    balls = in_real.sum(0) / k
    return {
        "precision": share(held),
        "recall": _bootstrapped(len(fake), lambda chosen: float(by_fake[1, chosen].any(0).mean())),
        "density": _bootstrapped(len(fake), lambda chosen: float(balls[chosen].mean()), math.inf),
        "coverage": _bootstrapped(len(fake), lambda chosen: float(by_fake[0, chosen].any(0).mean())),
    }


def fidelity(real: Array, fake: Array) -> dict[str, Estimate]:
    """`frechet` and `manifolds` together, of features [M, D] and [N, D]."""
    return {"frechet": frechet(real, fake), **manifolds(real, fake)}


def shares(values: Sequence[str | None] | Array, names: Sequence[str]) -> dict[str, Estimate]:
    """The share of each name among `values`, which may hold others."""
    is_name = {name: np.array([value == name for value in values]) for name in names}
    return {name: share(hits) for name, hits in is_name.items()}


def share(hits: Array) -> Estimate:
    """The share of true ones in `hits` bool [N], N at least 1."""
    from scipy import stats  # here: it would add a tenth to the time that `import bridge_ebm` takes

    found = stats.binomtest(int(np.sum(hits)), len(hits))
    interval = found.proportion_ci(method="wilson")
    return Estimate(float(found.statistic), float(interval.low), float(interval.high))


def memorisation(fake: Array, train: Array, held_out: Array) -> Memorisation:
    """`Memorisation` by features `fake` [N, D], `train` [T, D] and `held_out` [M, D].

    A training set that fills its space densely has good new pictures near it too: read it beside recall, and with
    `median_ratio`, which only copies bring to 0. It says nothing where held-out pictures are training pictures.
    """
    fake, train = _checked(fake, train)
    near, usual = distances(fake, train).min(1), distances(_checked(held_out, train)[0], train).min(1)
    return Memorisation(share(near < np.percentile(usual, 5)), float(np.median(near) / np.median(usual)))


def distances(a: Array, b: Array) -> Array:
    """Euclidean distances of features [M, D] and [N, D]: [M, N]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 1e-12))  # rounding: equal pictures are 1e-6 apart


def _radii(points: Array, k: int) -> Array:
    """Distance of each point [M, D] to its k-th nearest other one: [M]."""
    return np.partition(distances(points, points), k, axis=1)[:, k]


def _checked(real: Array, fake: Array) -> tuple[Array, Array]:
    pair = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if any(x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all() for x in pair) or pair[0].shape[1] != pair[1].shape[1]:
        raise ValueError(
            "two sets of features are needed, finite [M, D] and [N, D] of two pictures or more, as `features` makes "
            f"them; got {list(pair[0].shape)} and {list(pair[1].shape)}"
        )
    return pair


def _bootstrapped(count: int, measure: Callable[[Array], float], most: float = 1.0) -> Estimate:
    """`measure` of all `count` pictures, with the interval that resamples of their positions give, within [0, most]."""
    random = np.random.Generator(np.random.PCG64(0))
    value = measure(np.arange(count))
    drawn = np.array([measure(random.integers(count, size=count)) for _ in range(RESAMPLES)])
    low, high = value + np.percentile(drawn - drawn.mean(), _TAILS)
    return Estimate(value, max(float(low), 0.0), min(float(high), most))

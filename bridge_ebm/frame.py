"""Plane frames: Euler-Bernoulli beams, hinged bars and tension-only bars, on sparse matrices.

First-order statics, with one addition: ties may have a pull from their own weight that resists being moved sideways
(the geometric stiffness N / L). Which ties are taut is iterated. A frame that can move without any member resisting
is never solved: the solution names the nodes that move. Units: m, N; x to the right, y up.

Source: any text on matrix structural analysis, for instance McGuire, Gallagher and Ziemian, Matrix Structural
Analysis, 2nd edition, chapters 4 (elements), 5 (distributed loads), 9 (geometric stiffness) and 13 (releases).
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

BEAM, BAR, TIE = 0, 1, 2  # bends; hinged at both ends; hinged and slack under compression
_LOOSE = 1e-11  # a pivot this small, of a matrix scaled to a unit diagonal, is no stiffness
_ROUNDS = 15

Array = np.ndarray


class Frame(NamedTuple):
    """A plane frame of N nodes and M members.

    `nodes` [N, 2] m; `ends` int [M, 2], node numbers; `kind` int [M], `BEAM`, `BAR` or `TIE`; `stretch` [M], EA in N;
    `bend` [M], EI in N m^2; `line_load` [M], N per metre of the member's horizontal projection, downward, beams only;
    `held` bool [N, 3], displacements x, y and rotation that are zero; `pinned` bool [M, 2], ends of beams without
    moment; `nodal_load` [N, 3], forces x, y and moment.
    """

    nodes: Array
    ends: Array
    kind: Array
    stretch: Array
    bend: Array
    line_load: Array
    held: Array
    pinned: Array
    nodal_load: Array


class Solution(NamedTuple):
    """What a frame does under its load.

    `moved` [N, 3]: displacements x, y (m) and rotations; `axial` [M] N, tension positive; `moment` [M, 2] N m at the
    two ends, as they act on the member, anticlockwise; `taut` bool [M]: False for slack ties; `stretched`, `bent`
    [M]: strain energy J of axial force and of bending; `mechanism`: numbers of the nodes that can move freely, empty
    for a frame that stands (otherwise all else is zero); `settled`: whether the slack ties could be settled.
    """

    moved: Array
    axial: Array
    moment: Array
    taut: Array
    stretched: Array
    bent: Array
    mechanism: tuple[int, ...]
    settled: bool


class _Shape(NamedTuple):
    """What does not change while ties go slack."""

    length: Array
    turn: Array  # [M, 6, 6] global to local
    place: Array  # int [M, 6] degrees of freedom
    local: Array  # [M, 6, 6] stiffness
    fixed: Array  # [M, 6] end forces of the line load on held ends, local


def solve(frame: Frame, prestress: Array | float = 0.0) -> Solution:
    """Solve `frame`; ties that would be pressed go slack, those that would be stretched come back.

    `prestress` (N, one value or [M]) is the pull that ties are taken to have from dead weight; it resists being moved
    sideways, which holds up joints that only slack ties meet. With 0 such joints are mechanisms.

    The strain energy is convex in the displacements, so Newton's method on it, with an exact search along each step,
    settles which ties are slack whatever it starts from. Raises ValueError on members without length.
    """
    shape = _shape(frame)
    tie = frame.kind == TIE
    pull = np.where(tie, prestress, 0.0)
    load = _load(frame, shape)
    taut, moved, settled = np.ones(len(tie), bool), np.zeros((len(frame.nodes), 3)), False
    force = np.zeros((len(tie), 6))
    for turn in range(_ROUNDS):
        target, loose = _displacements(frame, shape, taut, pull, load)
        if loose:
            return _standing_still(frame, taut, loose)
        share = 1.0 if turn == 0 else _best_share(shape, tie, pull, load, moved, target - moved)
        moved = moved + share * (target - moved)
        force = _end_forces(shape, moved)
        now = ~tie | (force[:, 3] > 0)
        settled = share == 1.0 and bool((now == taut).all())
        taut = now
        if settled:
            break
    return _solution(frame, shape, moved, force, taut, settled)


def _best_share(shape: _Shape, tie: Array, pull: Array, load: Array, moved: Array, step: Array) -> float:
    """How much of `step` to take, 0 to 1: where the energy along it is least."""
    here, way = (np.einsum("mij,mj->mi", shape.turn, u.ravel()[shape.place]) for u in (moved, step))
    local = _with_pull(shape, np.where(tie, 0.0, 1.0), pull)
    slope = float(np.einsum("mi,mij,mj->", way, local, here) - step.ravel() @ load)
    curve = float(np.einsum("mi,mij,mj->", way, local, way))
    stiff, long, longer = shape.local[tie, 3, 3], (here[:, 3] - here[:, 0])[tie], (way[:, 3] - way[:, 0])[tie]

    def rising(t: float) -> bool:
        return slope + t * curve + float((stiff * np.maximum(long + t * longer, 0) * longer).sum()) > 0

    if not rising(1 - 1e-9):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) else (middle, high)
    return high


def _load(frame: Frame, shape: _Shape) -> Array:
    """Forces [3 N] on the nodes."""
    load = frame.nodal_load.astype(float).ravel()
    np.subtract.at(load, shape.place, np.einsum("mji,mj->mi", shape.turn, shape.fixed))
    return load


def _with_pull(shape: _Shape, share: Array, pull: Array) -> Array:
    """Local stiffness [M, 6, 6], `share` of the elastic one and the geometric one of a pull."""
    local = shape.local * share[:, None, None]
    for i in (1, 4):
        for j in (1, 4):
            local[:, i, j] += (1 if i == j else -1) * pull / shape.length
    return local


def _shape(frame: Frame) -> _Shape:
    a, b = frame.ends.T
    along = frame.nodes[b] - frame.nodes[a]
    length = np.hypot(*along.T)
    if len(length) and length.min() <= 0:
        raise ValueError("a member of a frame has no length")
    cos, sin = (along / length[:, None]).T
    turn = np.zeros((len(length), 6, 6))
    for k in (0, 3):
        turn[:, k, k] = turn[:, k + 1, k + 1] = cos
        turn[:, k, k + 1], turn[:, k + 1, k] = sin, -sin
        turn[:, k + 2, k + 2] = 1
    place = np.concatenate([3 * frame.ends[:, :1] + [0, 1, 2], 3 * frame.ends[:, 1:] + [0, 1, 2]], 1)
    beam = frame.kind == BEAM
    ea, ei = frame.stretch / length, np.where(beam, frame.bend, 0.0)
    local = np.zeros((len(length), 6, 6))
    local[:, 0, 0] = local[:, 3, 3] = ea
    local[:, 0, 3] = local[:, 3, 0] = -ea
    bending = [[12, 6, -12, 6], [6, 4, -6, 2], [-12, -6, 12, -6], [6, 2, -6, 4]]
    power = [[3, 2, 3, 2], [2, 1, 2, 1], [3, 2, 3, 2], [2, 1, 2, 1]]
    for i, p in enumerate((1, 2, 4, 5)):
        for j, q in enumerate((1, 2, 4, 5)):
            local[:, p, q] = bending[i][j] * ei / length ** power[i][j]
    w = np.where(beam, frame.line_load, 0.0) * np.abs(cos)  # per metre of member
    across, down = w * cos, w * sin  # local -y and -x
    fixed = np.stack([down, across, across * length / 6, down, across, -across * length / 6], 1) * length[:, None] / 2
    for end in (2, 5):
        _release(local, fixed, frame.pinned[:, end // 3] & beam, end)
    return _Shape(length, turn, place, local, fixed)


def _release(local: Array, fixed: Array, free: Array, dof: int) -> None:
    """Condense out rotation `dof` of the members `free`, in place."""
    for m in np.flatnonzero(free & (local[:, dof, dof] > 0)):
        k = local[m]
        column = k[:, dof] / k[dof, dof]
        fixed[m] -= column * fixed[m, dof]
        local[m] = k - np.outer(column, k[dof])
        local[m, dof] = local[m, :, dof] = 0


def _displacements(frame: Frame, shape: _Shape, taut: Array, pull: Array, load: Array) -> tuple[Array, tuple[int, ...]]:
    """Displacements [N, 3], and the nodes that are free to move, if any."""
    acts = taut | (pull > 0)
    local = _with_pull(shape, np.where(taut, 1.0, 0.0), pull)
    stiff = np.swapaxes(shape.turn, 1, 2)[acts] @ local[acts] @ shape.turn[acts]
    size = 3 * len(frame.nodes)
    place = shape.place[acts]
    rows, columns = np.repeat(place, 6, 1).ravel(), np.tile(place, (1, 6)).ravel()
    entries, own = stiff.ravel(), np.einsum("mii->mi", stiff)
    diagonal = np.bincount(place.ravel(), own.ravel(), size)
    tip = diagonal.max(initial=0) * 1e-14
    # Hinged nodes have no rotation; a node with slack ties only carries nothing. Neither is part of the frame.
    here = np.bincount(place.ravel() // 3, minlength=len(frame.nodes)) > 0
    part = ~frame.held.ravel() & np.repeat(here, 3)
    part[2::3] &= diagonal[2::3] > tip
    free = np.flatnonzero(part)
    moved = np.zeros(size)
    empty = free[diagonal[free] <= tip]
    loaded = ~np.repeat(here, 3) & (load != 0) & ~frame.held.ravel()
    if len(empty) or loaded.any():
        return moved.reshape(-1, 3), tuple(np.unique(np.append(empty, np.flatnonzero(loaded)) // 3).tolist())
    if len(free) == 0:
        return moved.reshape(-1, 3), ()
    scale = 1 / np.sqrt(diagonal[free])
    number, by = np.full(size, -1), np.zeros(size)
    number[free], by[free] = np.arange(len(free)), scale
    kept = (number[rows] >= 0) & (number[columns] >= 0)
    rows, columns, entries = rows[kept], columns[kept], entries[kept]
    scaled = entries * by[rows] * by[columns]
    inner = csc_matrix((scaled, (number[rows], number[columns])), (len(free), len(free)))
    try:
        factors = splu(inner, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:  # exactly singular
        return moved.reshape(-1, 3), _moving(inner, free)
    if np.abs(factors.U.diagonal()).min() < _LOOSE:
        return moved.reshape(-1, 3), _moving(inner, free)
    moved[free] = scale * factors.solve(scale * load[free])
    return moved.reshape(-1, 3), ()


def _moving(inner: csc_matrix, free: Array) -> tuple[int, ...]:
    """The nodes that take part in the free movement of a singular stiffness matrix: inverse iteration."""
    shifted = inner.copy()
    shifted.setdiag(inner.diagonal() + 1e-10)
    factors = splu(shifted.tocsc())
    way = np.random.default_rng(0).normal(size=len(free))
    for _ in range(3):
        way = factors.solve(way)
        way /= np.abs(way).max()
    return tuple(np.unique(free[np.abs(way) > 0.3] // 3).tolist())


def _end_forces(shape: _Shape, moved: Array) -> Array:
    """Forces [M, 6] on the ends of the members, local axes; the tie's sideways resistance left out."""
    local = np.einsum("mij,mj->mi", shape.turn, moved.ravel()[shape.place])
    return np.einsum("mij,mj->mi", shape.local, local) + shape.fixed


def _standing_still(frame: Frame, taut: Array, loose: tuple[int, ...]) -> Solution:
    n, m = len(frame.nodes), len(frame.ends)
    zero = np.zeros(m)
    return Solution(np.zeros((n, 3)), zero, np.zeros((m, 2)), taut, zero, zero, loose, False)


def _solution(frame: Frame, shape: _Shape, moved: Array, force: Array, taut: Array, settled: bool) -> Solution:
    axial = np.where(taut, force[:, 3], 0.0)
    moment = force[:, [2, 5]]
    beam = frame.kind == BEAM
    stretched = axial**2 * shape.length / (2 * frame.stretch)
    # Moments vary as a parabola between the ends: Simpson's rule on the square of three values is close enough.
    w = np.where(beam, frame.line_load, 0.0) * np.abs(shape.turn[:, 0, 0]) ** 2
    first, last = -moment[:, 0], moment[:, 1]
    middle = (first + last) / 2 + w * shape.length**2 / 8
    square = (first**2 + 4 * middle**2 + last**2) / 6 * shape.length
    bent = np.where(beam, square / (2 * np.where(beam, frame.bend, 1.0)), 0.0)
    return Solution(moved, axial, moment, taut, stretched, bent, (), settled)

"""Candidates for new types: from plans (plans.py) to pictures, by chains under composed energies.

Candidates are made in groups of `GROUP`; a group is a pure function of (model, seed, number of the group, plans), so
groups may be made in any order and by any process. Those of the default mix compose by region in two stages:

1. Companions: from each of a few noises, one whole bridge of every sub-type, all at once under `compose.companions`:
   every energy sees whole bridges of its own kind only. The last few steps put a price on ink (`compose.ink`), which
   clears the haze of some grey levels that chains leave on the ground.
2. Joining: the plan's regions cut each design out of companions of its group, those without flaws that fit each other
   best along the seams.

The way "regional" lets all energies act on one picture instead (`compose.regional`). A model of half pictures runs all
chains on left halves, and mirrored right ones where a design is not symmetric. Chains begin where the model's do: at
noise, or at pictures of its coarse model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from bridge_ebm import compose, data, joints, langevin, metrics, plans, structure
from bridge_ebm.models import Model
from bridge_ebm.plans import Plan
from bridge_ebm.studio import (
    FRAMES,
    Held,
    Studio,
    frame_numbers,
    open_studio,
    run_chains,
    starts_of,
    whole_pictures,
    with_held,
)

GROUP = 32  # candidates
NOISES = 4  # in a group: each gives companions of all sub-types

BLEND = 0.5  # weight of each energy in the way "blend"
AGAINST = 0.3  # strength of the negated energy in the way "without"
BOUND = 0.1  # of the energy between noise and a real picture: the most that negation adds or takes away
MELT = 1e-3  # of the same energy: the temperature of the mixture in the way "either"


class Made(NamedTuple):
    """What was made of one plan, as uint8 [H, W]: the last `picture` and `frames` [F, H, W] at `steps`, each with its
    energy in `energies`.
    """

    picture: np.ndarray
    frames: np.ndarray
    steps: tuple[int, ...]
    energies: tuple[float, ...]


def make_group(studio: Studio, seed: int, group: int, drawn: Sequence[Plan]) -> list[Made]:
    """The candidates of `drawn`, the plans of group number `group` in order (at most `GROUP`)."""
    key = jax.random.fold_in(jax.random.key(seed), group)
    kinds = {"joined": _composed, "regional": _regional, "whole": _mixed}
    kind_of = [_kind(plan.way) for plan in drawn]
    made: dict[int, Made] = {}
    for kind, make in kinds.items():
        mine = [k for k, its in enumerate(kind_of) if its == kind]
        if mine:
            made |= zip(mine, make(studio, key, [drawn[k] for k in mine]), strict=True)
    return [made[k] for k in range(len(drawn))]


def complete(model: Model, seed: int, subtypes: Sequence[str], held: Held) -> np.ndarray:
    """Pictures uint8 [N, H, W] that keep the pixels of `held` [N, H, W, 1], each drawn as its sub-type: sketches
    completed.
    """
    studio = open_studio(model, held)
    start_key, chain_key = jax.random.split(jax.random.key(seed))
    starts = starts_of(studio, start_key, subtypes)
    index = jnp.asarray([studio.subtypes.index(name) for name in subtypes])
    walk = run_chains(studio, chain_key, starts, compose.one_of(studio.energies, index), studio.projection)
    return data.to_uint8(with_held(studio, whole_pictures(studio, walk[-1])))


def _kind(way: str) -> str:
    return "joined" if way in plans.MIX else "regional" if way == "regional" else "whole"


def _composed(studio: Studio, key: jax.Array, drawn: Sequence[Plan]) -> list[Made]:
    """Designs joined from companions."""
    start_key, chain_key = jax.random.split(key)
    steps = frame_numbers(studio)
    parts = _companions(studio, start_key, chain_key)  # [F, NOISES, K, h, w, 1]
    energies = _companion_energies(studio, parts) * (2 if studio.half else 1)  # of whole pictures [F, NOISES, K]
    flaws = _flaws(studio, parts[-1])
    made = []
    for d, plan in enumerate(drawn):
        index = [studio.subtypes.index(name) for name in plan.subtypes]
        noise = joints.fitting(plan, whole_pictures(studio, parts[-1][:, index]), flaws[:, index], d % NOISES)
        mine = parts[:, noise, index]
        seams = joints.seams(plan, mine[-1], studio.width)
        masks = plans.masks(plan._replace(seams=seams), studio.height, studio.width, joints.JOINT)
        frames = with_held(studio, np.einsum("khwc,fkhwc->fhwc", masks, whole_pictures(studio, mine)))
        made.append(_made(frames, steps, energies[:, noise, index] @ masks.mean((1, 2, 3))))
    return made


def _flaws(studio: Studio, parts: np.ndarray) -> np.ndarray:
    """How many of three faults the companions [NOISES, K, h, w, 1] have, int [NOISES, K]: ghosts, not being sharp, and
    another verdict than A.
    """
    pictures = data.to_uint8(whole_pictures(studio, parts)).reshape(-1, studio.height, studio.width)
    fits = metrics.in_range(metrics.definition(pictures), studio.height, studio.width)
    stands = np.array([structure.analyse(picture).verdict == "A" for picture in pictures])
    return (3 - fits.ghost.astype(int) - np.all(fits, axis=0) - stands).reshape(parts.shape[:2])


def _made(frames: np.ndarray, steps: tuple[int, ...], energies: np.ndarray) -> Made:
    pictures = data.to_uint8(frames)
    return Made(pictures[-1], pictures, steps, tuple(float(energy) for energy in energies))


def _companions(studio: Studio, start_key: jax.Array, chain_key: jax.Array) -> np.ndarray:
    """Bridges of every sub-type, the frames of their chains, float [F, NOISES, K, h, w, 1]."""
    count, (height, width, _) = len(studio.subtypes), studio.area
    starts = jnp.concatenate([starts_of(studio, start_key, [name] * NOISES) for name in studio.subtypes], axis=1)
    energy = compose.companions(studio.energies[:-1], np.zeros((count, height, width, 1), np.float32))
    each = Partial(_each, studio.projection, jnp.zeros(count))
    return run_chains(studio, chain_key, starts, energy, each).reshape(FRAMES, NOISES, count, height, width, 1)


def _each(projection: Partial, places: jax.Array, images: jax.Array) -> jax.Array:
    """The projection of each of the `len(places)` pictures [H, W] that images [B, K * H, W, 1] hold."""
    parts = images.reshape(-1, images.shape[1] // len(places), *images.shape[2:])
    return projection(parts).reshape(images.shape)


def _companion_energies(studio: Studio, parts: np.ndarray) -> np.ndarray:
    """The energy of every companion under its own sub-type, [F, NOISES, K]."""
    count = len(studio.subtypes)
    mixed = compose.one_of(studio.energies[:-1], jnp.arange(NOISES * count) % count)
    flat = [jnp.asarray(frame.reshape(-1, *studio.area)) for frame in parts]
    return np.stack([np.asarray(compose.energies_under(mixed, frame)).reshape(NOISES, count) for frame in flat])


def _regional(studio: Studio, key: jax.Array, drawn: Sequence[Plan]) -> list[Made]:
    """Designs of the way "regional": chains under the masked mixture of all energies of a plan."""
    jobs = [(d, False) for d in range(len(drawn))]
    if studio.half:
        jobs += [(d, True) for d, plan in enumerate(drawn) if plan.spans[0] != plan.spans[2]]
    cells = [_cells(studio, drawn[d], flipped) for d, flipped in jobs]
    labels = np.stack([label for label, _ in cells], axis=1)
    masks = np.stack([mask for _, mask in cells], axis=1)
    noise_key, chain_key = jax.random.split(key)
    begin = _regional_starts(studio, noise_key, len(drawn), labels, masks, [d for d, _ in jobs])
    steps = frame_numbers(studio)
    frames, energies = np.empty((len(jobs), FRAMES, *studio.area), np.float32), np.empty((len(jobs), FRAMES))
    for first in range(0, len(jobs), GROUP):
        here = np.arange(first, first + GROUP) % len(jobs)  # the last batch is filled up
        parts = [compose.one_of(studio.energies, index) for index in labels[:, here]]
        energy = compose.regional(parts, masks[:, here])
        batch_key = chain_key if first == 0 else jax.random.fold_in(chain_key, first)
        walk = run_chains(studio, batch_key, jnp.asarray(begin[here]), energy, studio.projection)
        frames[here] = walk.swapaxes(0, 1)
        values = np.array(
            [[compose.energies_under(part, jnp.asarray(frame)) for part in parts] for frame in walk]
        )  # [F, C, B]
        energies[here] = np.einsum("fcb,cb->bf", values, masks[:, here].mean((2, 3, 4)))
    chains, values = _assembled(studio, jobs, frames, energies, len(drawn))
    return [_made(with_held(studio, chain), steps, value) for chain, value in zip(chains, values, strict=True)]


def _regional_starts(
    studio: Studio, key: jax.Array, count: int, labels: np.ndarray, masks: np.ndarray, designs: list[int]
) -> np.ndarray:
    """Where the chain of each job begins, [J, h, w, 1], for jobs of the `designs` [J] among `count`, with the sub-types
    `labels` [C, J] of their regions `masks` [C, J, h, w, 1]: at noise, or at coarse pictures of these, cut together.
    """
    if studio.cascade is None:
        return np.asarray(langevin.uniform_images(key, (count, *studio.area)))[designs]
    of = {k: np.asarray(starts_of(studio, key, [studio.subtypes[k]] * count)) for k in np.unique(labels)}
    regions = [[of[k][d] for k, d in zip(row, designs, strict=True)] for row in labels]
    return (masks * np.array(regions)).sum(axis=0)


def _assembled(
    studio: Studio, jobs: list[tuple[int, bool]], frames: np.ndarray, energies: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [N, F, H, W, 1] and energies [N, F] of `count` designs from those of their areas."""
    if not studio.half:
        return frames[:count], energies[:count]
    right, other = frames[:count].copy(), energies[:count].copy()
    for job, (d, flipped) in enumerate(jobs):
        if flipped:
            right[d], other[d] = frames[job], energies[job]
    return np.concatenate([frames[:count], right[..., ::-1, :]], axis=-2), energies[:count] + other


def _cells(studio: Studio, plan: Plan, flipped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sub-types [C] and masks [C, h, w, 1] of a plan's cells on the area: side and main span above and below the deck
    (left, main and right for whole pictures).
    """
    across = plan.spans[::-1] if flipped else plan.spans
    spans = across[:2] if studio.half else across
    labels, masks = [], []
    rows = compose.deck_masks(studio.height, studio.width)
    for level, seams in enumerate(plan.seams):
        left, right = seams[::-1] if flipped else seams
        places = studio.width * (0.5 - left / plans.METRES), studio.width * (0.5 + right / plans.METRES)
        columns = compose.span_masks(studio.width, places[: len(spans) - 1])[:, : studio.area[1]]
        masks.append(compose.cells(rows[level : level + 1], columns))
        labels += [studio.subtypes.index(span[level]) for span in spans]
    return np.array(labels), np.concatenate(masks)


def _mixed(studio: Studio, key: jax.Array, drawn: Sequence[Plan]) -> list[Made]:
    """Designs of the ways that mix energies over the whole picture, or take one alone."""
    made: list[Made | None] = [None] * len(drawn)
    for number, way in enumerate(plans.WAYS):
        mine = [d for d, plan in enumerate(drawn) if plan.way == way]
        if not mine:
            continue
        places = np.array((mine * GROUP)[:GROUP])  # always a full batch: one shape to compile
        energy = _mixture(studio, way, [drawn[d] for d in places])
        start_key, chain_key = jax.random.split(jax.random.fold_in(key, 1000 + number))
        begin = [_start(studio, jax.random.fold_in(start_key, d), drawn[d]) for d in mine]
        starts = jnp.concatenate((begin * GROUP)[:GROUP])
        steps = frame_numbers(studio)
        walk = run_chains(studio, chain_key, starts, energy, studio.projection)
        values = np.stack([np.asarray(compose.energies_under(energy, jnp.asarray(frame))) for frame in walk], axis=1)
        whole = with_held(studio, whole_pictures(studio, walk.swapaxes(0, 1)))
        for place, d in enumerate(mine):
            made[d] = _made(whole[place], steps, values[place])
    return [one for one in made if one is not None]


def _start(studio: Studio, key: jax.Array, plan: Plan) -> jax.Array:
    """Where the chain of a plan that mixes energies begins [1, h, w, 1]; of a restart at a picture of the buffer."""
    if plan.way != "restart":
        return starts_of(studio, key, [plan.spans[1].above])
    return jnp.asarray(studio.buffer[int(jax.random.randint(key, (), 0, len(studio.buffer)))])[None]


def _mixture(studio: Studio, way: str, drawn: Sequence[Plan]) -> Partial:
    """The energy under which the chains of a way run, each with its own sub-types."""
    if way == "restart":
        return studio.energies[-1]
    first = np.array([studio.subtypes.index(plan.spans[1].above) for plan in drawn])
    mine = compose.one_of(studio.energies, jnp.asarray(first))
    if way == "subtype":
        return mine
    second = np.array([studio.subtypes.index(plan.other) for plan in drawn])
    other = compose.one_of(studio.energies, jnp.asarray(second))
    if way == "blend":
        return compose.conjunction([mine, other], [BLEND, BLEND])
    if way == "either":
        # Of two sub-types a chain takes the one whose energy falls faster; both are measured from their real pictures.
        both = [
            Partial(_above, energy, jnp.asarray(studio.levels[k], jnp.float32))
            for energy, k in ((mine, first), (other, second))
        ]
        return compose.disjunction(both, temperature=MELT * studio.drop)
    unwanted = Partial(_above, other, jnp.asarray(studio.levels[second], jnp.float32))
    return compose.conjunction([mine, compose.negation(unwanted, 0.0, AGAINST, BOUND * studio.drop)])


def _above(energy: Partial, level: jax.Array, images: jax.Array) -> jax.Array:
    return energy(images) - level

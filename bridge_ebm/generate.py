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
from dataclasses import replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from bridge_ebm import bridges, compose, data, joints, langevin, metrics, mirror, plans, samplers, structure
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.models import Model
from bridge_ebm.plans import Plan

GROUP = 32  # candidates
NOISES = 4  # in a group: each gives companions of all sub-types
FRAMES = 6  # pictures kept of every chain, from the noise to the end
CLEARING = 12  # last steps of every chain, in which ink has a price
HAZE = 4 / 255  # of the grey range, that those steps take from a pixel at most

BLEND = 0.5  # weight of each energy in the way "blend"
AGAINST = 0.3  # strength of the negated energy in the way "without"
BOUND = 0.1  # of the energy between noise and a real picture: the most that negation adds or takes away
MELT = 1e-3  # of the same energy: the temperature of the mixture in the way "either"


class Held(NamedTuple):
    """Pixels that every design must have: bool `mask` [H, W, 1] and `picture` [H, W, 1] in [-1, 1].

    For `complete` both are [N, H, W, 1], one for each picture.
    """

    mask: np.ndarray
    picture: np.ndarray


class Studio(NamedTuple):
    """A model made ready: its energies on the area on which chains run, a left half or a whole picture.

    `energies` are those of `subtypes`, and then the unconditional one. `levels` are the energies of real pictures of
    each sub-type, `drop` how much higher noise is (0 where they are not all the paper's sub-types). `projection` keeps
    the pixels held; `buffer` holds pictures of a training [N, h, w, 1] on that area, for the way "restart" (none:
    empty). `cascade` is the model itself where its chains begin at pictures of a coarse one, None where at noise.
    """

    subtypes: tuple[str, ...]
    energies: tuple[Partial, ...]
    levels: np.ndarray
    drop: float
    half: bool
    height: int
    width: int
    settings: LangevinSettings
    projection: Partial
    held: Held | None
    buffer: np.ndarray
    cascade: Model | None

    @property
    def area(self) -> tuple[int, int, int]:
        """Shape of the images of a chain."""
        return self.height, self.width // 2 if self.half else self.width, 1


class Made(NamedTuple):
    """What was made of one plan, as uint8 [H, W]: the last `picture` and `frames` [F, H, W] at `steps`, each with its
    energy in `energies`.
    """

    picture: np.ndarray
    frames: np.ndarray
    steps: tuple[int, ...]
    energies: tuple[float, ...]


def open_studio(model: Model, held: Held | None = None, buffer: np.ndarray | None = None) -> Studio:
    """A model's energies, made ready. Raises ValueError for a model without sub-types.

    Pixels held that are not symmetric make a model of halves run on whole pictures. `buffer` float [N, h, w, 1] holds
    what the model's training saw pictures as: whole or (a model of halves) halves.
    """
    known = model.settings.subtypes
    if not known:
        raise ValueError("composition needs a model that knows sub-types; train with --conditional")
    half = model.settings.mirror and (held is None or _is_symmetric(held))
    plain = model.without_levels()
    energy = plain.half_energy if half else plain.energy
    energies = tuple(cast(Partial, energy(name)) for name in (*known, None))
    projection = Partial(_free)
    if held is not None:
        width = model.width // 2 if half else model.width
        projection = compose.held(held.mask[..., :width, :], held.picture[..., :width, :])
    if buffer is None:
        buffer = np.zeros((0, model.height, model.width, 1), np.float32)
    elif model.settings.mirror and not half:
        buffer = np.asarray(mirror.unfold(jnp.asarray(buffer)))
    studio = Studio(
        subtypes=known,
        energies=energies,
        levels=np.zeros(len(known) + 1),
        drop=0.0,
        half=half,
        height=model.height,
        width=model.width,
        settings=model.settings.langevin,
        projection=projection,
        held=held,
        buffer=buffer,
        cascade=None if model.coarse is None else model,
    )
    return _measured(studio) if set(known) <= set(bridges.SUBTYPES) else studio


def on_device(studio: Studio, device: jax.Device) -> Studio:
    """The studio with its arrays on `device`."""
    energies, projection = jax.device_put((studio.energies, studio.projection), device)
    return studio._replace(energies=energies, projection=projection, cascade=_moved(studio.cascade, device))


def _moved(model: Model | None, device: jax.Device) -> Model | None:
    """The model, and the coarse one that its chains begin at, on `device`."""
    if model is None:
        return None
    params, batch_stats = jax.device_put((model.params, model.batch_stats), device)
    return replace(model, params=params, batch_stats=batch_stats, coarse=_moved(model.coarse, device))


def _free(images: jax.Array) -> jax.Array:
    return images


def _is_symmetric(held: Held) -> bool:
    same_mask = bool((held.mask == held.mask[..., ::-1, :]).all())
    return same_mask and bool((held.picture == held.picture[..., ::-1, :])[held.mask].all())


def _measured(studio: Studio) -> Studio:
    """The studio with the energies of real pictures and of noise."""
    middle = bridges.WIDTHS // 2
    real = [bridges.render(name, middle, studio.height, studio.width) for name in studio.subtypes]
    images = jnp.asarray(data.to_unit(np.stack([*real, real[0]])))[:, :, : studio.area[1]]
    noise = langevin.uniform_images(jax.random.key(0), images.shape)
    index = jnp.arange(len(studio.energies))
    mixed = compose.one_of(studio.energies, index)
    levels, high = np.asarray(_energies(mixed, images)), np.asarray(_energies(mixed, noise))
    return studio._replace(levels=levels, drop=float(np.abs(high - levels).mean()))


_energies = jax.jit(lambda energy, images: energy(images))
_constrained = jax.jit(samplers.constrained, static_argnames=("settings", "frames"))


def frame_numbers(studio: Studio) -> tuple[int, ...]:
    """Numbers of the frames kept of a chain, most of them early, where it moves fastest; the last is its end."""
    last = studio.settings.num_steps - 1
    return (*(round(last * (k / (FRAMES - 2)) ** 1.7) for k in range(FRAMES - 1)), last + CLEARING)


def _walk(studio: Studio, key: jax.Array, starts: jax.Array, energy: Partial, projection: Partial) -> np.ndarray:
    """Frames [F, B, h, w, 1] of chains from `starts`, the last steps without noise and with a price on ink."""
    steps = frame_numbers(studio)
    walk = _constrained(key, starts, energy, studio.settings, projection, steps[:-1])
    price = compose.ink(2 * HAZE / (CLEARING * studio.settings.step_size))
    settings = studio.settings._replace(num_steps=CLEARING, noise=0.0)
    end = _constrained(key, walk.images, compose.conjunction([energy, price]), settings, projection)
    return np.concatenate([walk.frames, end.images[None]])


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
    starts = _starts(studio, start_key, subtypes)
    index = jnp.asarray([studio.subtypes.index(name) for name in subtypes])
    walk = _walk(studio, chain_key, starts, compose.one_of(studio.energies, index), studio.projection)
    return data.to_uint8(_hold(studio, _whole(studio, walk[-1])))


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
        noise = joints.fitting(plan, _whole(studio, parts[-1][:, index]), flaws[:, index], d % NOISES)
        mine = parts[:, noise, index]
        seams = joints.seams(plan, mine[-1], studio.width)
        masks = plans.masks(plan._replace(seams=seams), studio.height, studio.width, joints.JOINT)
        frames = _hold(studio, np.einsum("khwc,fkhwc->fhwc", masks, _whole(studio, mine)))
        made.append(_made(frames, steps, energies[:, noise, index] @ masks.mean((1, 2, 3))))
    return made


def _flaws(studio: Studio, parts: np.ndarray) -> np.ndarray:
    """How many of three faults the companions [NOISES, K, h, w, 1] have, int [NOISES, K]: ghosts, not being sharp, and
    another verdict than A.
    """
    pictures = data.to_uint8(_whole(studio, parts)).reshape(-1, studio.height, studio.width)
    fits = metrics.in_range(metrics.definition(pictures), studio.height, studio.width)
    stands = np.array([structure.analyse(picture).verdict == "A" for picture in pictures])
    return (3 - fits.ghost.astype(int) - np.all(fits, axis=0) - stands).reshape(parts.shape[:2])


def _made(frames: np.ndarray, steps: tuple[int, ...], energies: np.ndarray) -> Made:
    pictures = data.to_uint8(frames)
    return Made(pictures[-1], pictures, steps, tuple(float(energy) for energy in energies))


def _companions(studio: Studio, start_key: jax.Array, chain_key: jax.Array) -> np.ndarray:
    """Bridges of every sub-type, the frames of their chains, float [F, NOISES, K, h, w, 1]."""
    count, (height, width, _) = len(studio.subtypes), studio.area
    starts = jnp.concatenate([_starts(studio, start_key, [name] * NOISES) for name in studio.subtypes], axis=1)
    energy = compose.companions(studio.energies[:-1], np.zeros((count, height, width, 1), np.float32))
    each = Partial(_each, studio.projection, jnp.zeros(count))
    return _walk(studio, chain_key, starts, energy, each).reshape(FRAMES, NOISES, count, height, width, 1)


def _each(projection: Partial, places: jax.Array, images: jax.Array) -> jax.Array:
    """The projection of each of the `len(places)` pictures [H, W] that images [B, K * H, W, 1] hold."""
    parts = images.reshape(-1, images.shape[1] // len(places), *images.shape[2:])
    return projection(parts).reshape(images.shape)


def _companion_energies(studio: Studio, parts: np.ndarray) -> np.ndarray:
    """The energy of every companion under its own sub-type, [F, NOISES, K]."""
    count = len(studio.subtypes)
    mixed = compose.one_of(studio.energies[:-1], jnp.arange(NOISES * count) % count)
    return np.stack(
        [
            np.asarray(_energies(mixed, jnp.asarray(frame.reshape(-1, *studio.area)))).reshape(NOISES, count)
            for frame in parts
        ]
    )


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
        walk = _walk(studio, chain_key, jnp.asarray(begin[here]), energy, studio.projection)
        frames[here] = walk.swapaxes(0, 1)
        values = np.array([[_energies(part, jnp.asarray(frame)) for part in parts] for frame in walk])  # [F, C, B]
        energies[here] = np.einsum("fcb,cb->bf", values, masks[:, here].mean((2, 3, 4)))
    chains, values = _assembled(studio, jobs, frames, energies, len(drawn))
    return [_made(_hold(studio, chain), steps, value) for chain, value in zip(chains, values, strict=True)]


def _regional_starts(
    studio: Studio, key: jax.Array, count: int, labels: np.ndarray, masks: np.ndarray, designs: list[int]
) -> np.ndarray:
    """Where the chain of each job begins, [J, h, w, 1], for jobs of the `designs` [J] among `count`, with the sub-types
    `labels` [C, J] of their regions `masks` [C, J, h, w, 1]: at noise, or at coarse pictures of these, cut together.
    """
    if studio.cascade is None:
        return np.asarray(langevin.uniform_images(key, (count, *studio.area)))[designs]
    of = {k: np.asarray(_starts(studio, key, [studio.subtypes[k]] * count)) for k in np.unique(labels)}
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
        walk = _walk(studio, chain_key, starts, energy, studio.projection)
        values = np.stack([np.asarray(_energies(energy, jnp.asarray(frame))) for frame in walk], axis=1)
        whole = _hold(studio, _whole(studio, walk.swapaxes(0, 1)))
        for place, d in enumerate(mine):
            made[d] = _made(whole[place], steps, values[place])
    return [one for one in made if one is not None]


def _starts(studio: Studio, key: jax.Array, names: Sequence[str]) -> jax.Array:
    """Where chains of the sub-types `names` begin, one for each [N, h, w, 1]: at noise, whatever their names, or at
    pictures of the coarse model.
    """
    if studio.cascade is None:
        return langevin.uniform_images(key, (len(names), *studio.area))
    starts = np.empty((len(names), *studio.area), np.float32)
    for name in dict.fromkeys(names):
        mine = [k for k, one in enumerate(names) if one == name]
        starts[mine] = studio.cascade.start(key, len(mine), name)[:, :, : studio.area[1]]
    return jnp.asarray(starts)


def _start(studio: Studio, key: jax.Array, plan: Plan) -> jax.Array:
    """Where the chain of a plan that mixes energies begins [1, h, w, 1]; of a restart at a picture of the buffer."""
    if plan.way != "restart":
        return _starts(studio, key, [plan.spans[1].above])
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


def _whole(studio: Studio, areas: np.ndarray) -> np.ndarray:
    """Whole pictures [..., H, W, 1] of areas [..., h, w, 1]: symmetric ones of left halves."""
    return np.concatenate([areas, areas[..., ::-1, :]], axis=-2) if studio.half else areas


def _hold(studio: Studio, frames: np.ndarray) -> np.ndarray:
    """Pictures [..., H, W, 1] with the held pixels as they must be: a sum of regions may round them."""
    return frames if studio.held is None else np.where(studio.held.mask, studio.held.picture, frames)

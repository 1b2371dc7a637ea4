"""The report on a set of pictures: every measure, beside what held-out real pictures score."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from bridge_ebm import data, metrics, mirror, processes, structure
from bridge_ebm.data import Dataset
from bridge_ebm.errors import InputError
from bridge_ebm.fidelity import NEIGHBOURS
from bridge_ebm.settings import TrainSettings

VERDICTS = ("A", "B", "C")
CEILING = 200  # held-out pictures that are judged one by one for the ceilings
DRAWS = 10  # sets of training pictures over which the ceilings of fidelity are averaged
Array = np.ndarray


class Real(NamedTuple):
    """The real pictures to measure with: those of the training, those to measure `against`, of part `part` of the data
    set, and skeletons for novelty.

    `symmetric_only`: both sets are the mirror-symmetric pictures only, moved to their middle; `held_out`: the training
    did not see `against`.
    """

    train: Dataset
    against: Dataset
    part: str
    skeletons: metrics.Reference
    symmetric_only: bool
    held_out: bool


class Judged(NamedTuple):
    """What is known of each picture of a set: figures, which of them are in range, novelty, and verdict."""

    figures: metrics.Definition
    in_range: metrics.Definition
    novelty: list[metrics.Novelty]
    verdicts: list[str]

    @property
    def sharp(self) -> Array:
        """Whether all four figures are in range, bool [N]."""
        return np.all(self.in_range, axis=0)

    @property
    def nearest(self) -> list[str | None]:
        """The sub-type that each picture's skeleton matches best."""
        return [one.nearest for one in self.novelty]


def real_pictures(training: TrainSettings, part: str = "test") -> Real:
    """The pictures of a training's own data description, to measure against its `part` "test", or "validation" for
    choosing settings. Raises `InputError` where that part is empty.
    """
    whole = _pictures(training)
    train = _part(whole, training.split, training.mirror)
    try:
        against = _part(whole, part, training.mirror)
    except InputError:
        raise InputError(
            f"--model: the {len(whole.images)} pictures of its training data ({training.data}) leave none for the "
            f"{part} part to measure against; restore them, or train on more"
        ) from None
    skeletons = _skeletons(training, lambda: train)
    return Real(train, against, part, skeletons, training.mirror, held_out=training.split not in ("all", part))


def training_skeletons(training: TrainSettings) -> metrics.Reference:
    """Skeletons of the pictures of a training, beside which the novelty of others is measured; with `mirror` also of
    those whose halves it does not see, the others moved to their middle as it sees them. Raises `InputError` where
    those pictures are not there.
    """

    def seen() -> Dataset:
        dataset = data.split(_pictures(training), training.split)
        return data.centred(dataset) if training.mirror else dataset

    return _skeletons(training, seen)


def _skeletons(training: TrainSettings, seen: Callable[[], Dataset]) -> metrics.Reference:
    """Those of the paper's recipe are drawn anew, of one member width; others are of `seen()`."""
    if training.data == "procedural" and training.recipe == "paper":
        return metrics.paper_reference(training.height, training.width)
    dataset = seen()
    return metrics.reference(dataset.images, dataset.labels, dataset.subtypes)


def _pictures(training: TrainSettings) -> Dataset:
    size = training.height, training.width
    if training.data == "procedural":
        return data.procedural(*size, training.recipe, training.per_type, training.seed, progress=True)
    try:
        return data.load_folder(training.data, *size, progress=True)
    except InputError as error:
        raise InputError(f"--model: its own training pictures are what it is measured beside; {error}") from None


def _part(whole: Dataset, part: str, symmetric_only: bool) -> Dataset:
    pictures = data.split(whole, part)
    return data.symmetric_part(pictures) if symmetric_only else pictures


def of_subtypes(dataset: Dataset, names: set[str]) -> Dataset:
    """The part of a data set that is of these sub-types."""
    return chosen(dataset, np.isin(dataset.labels, [dataset.subtypes.index(name) for name in names]))


def evenly(dataset: Dataset, count: int) -> Dataset:
    """At most `count` pictures, of every sub-type its share, drawn by chance, the same ones each time."""
    return chosen(dataset, _evenly(dataset.labels, min(count, len(dataset.labels))))


def _evenly(labels: Array, count: int, draw: int = 0) -> Array:
    """Positions of `count` pictures with these labels, rising; others for each `draw`.

    By chance, as augmentations follow one another in the same order: every n-th picture may be the same one of each.
    """
    order = np.random.Generator(np.random.PCG64(draw)).permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_label[np.arange(count) * len(labels) // count])


def chosen(dataset: Dataset, where: Array) -> Dataset:
    """The pictures at these positions."""
    return dataset._replace(images=dataset.images[where], labels=dataset.labels[where], base=dataset.base[where])


def names_of(dataset: Dataset) -> list[str | None]:
    """The sub-type of every picture."""
    return [dataset.subtypes[label] for label in dataset.labels]


def judge(images: Array, skeletons: metrics.Reference, progress: bool = False) -> Judged:
    """Everything that is known of each picture by itself, uint8 [N, H, W]; 40 to 60 ms each, shared by processes."""
    figures = metrics.definition(images)
    mine = images[processes.share(range(len(images)))]
    verdicts = [structure.analyse(image).verdict for image in tqdm(mine, "judging", disable=not progress)]
    found = metrics.novelty(mine, skeletons) if len(mine) else []
    novelty = [_read_novelty(one) for one in processes.merged(found)]
    in_range = metrics.in_range(figures, *images.shape[1:])
    return Judged(figures, in_range, novelty, processes.merged(verdicts))


def _read_novelty(values: Sequence[Any]) -> metrics.Novelty:
    """A record that may have come from another process as a list."""
    one = metrics.Novelty(*values)
    return one._replace(pair=(one.pair[0], one.pair[1]), shares=(one.shares[0], one.shares[1]))


def report(images: Array, asked: Sequence[str | None], judged: Judged, real: Real) -> dict[str, Any]:
    """Every measure of pictures uint8 [N, H, W]; `asked` says of which sub-type each should be (None: of any)."""
    picked = evenly(real.against, CEILING)
    ceiling = judge(picked.images, real.skeletons)
    return {
        "reference": {
            "train_pictures": len(real.train.images),
            "part": real.part,
            "part_pictures": len(real.against.images),
            "judged_for_ceilings": len(picked.images),
            "mirror_symmetric_part_only": real.symmetric_only,
            "held_out_from_training": real.held_out,
        },
        "definition": _definition(judged, ceiling, *images.shape[1:]),
        "class_accuracy": _accuracy(judged.nearest, asked, ceiling.nearest, names_of(picked)),
        "classes": _classes(judged, asked, real),
        "verdicts": {
            name: _beside(
                metrics.share(np.equal(judged.verdicts, name)),
                metrics.share(np.equal(ceiling.verdicts, name)),
            )
            for name in VERDICTS
        },
        **_sets(images, real),
        "novelty": _novelty(images, judged),
    }


def _beside(value: metrics.Estimate, ceiling: metrics.Estimate) -> dict[str, float]:
    return {**value._asdict(), **{f"ceiling_{name}": number for name, number in ceiling._asdict().items()}}


def _definition(judged: Judged, ceiling: Judged, height: int, width: int) -> dict[str, Any]:
    limits = metrics.real_range(height, width)
    each = {
        name: {
            "range": list(getattr(limits, name)),
            "median": float(np.nanmedian(values)) if np.isfinite(values).any() else None,
            **_beside(
                metrics.share(getattr(judged.in_range, name)),
                metrics.share(getattr(ceiling.in_range, name)),
            ),
        }
        for name, values in judged.figures._asdict().items()
    }
    sharp = _beside(metrics.share(judged.sharp), metrics.share(ceiling.sharp))
    return {**each, "sharp": sharp, "blends_decidable": metrics.blends_decidable(height, width)}


def _accuracy(
    nearest: Sequence[str | None],
    asked: Sequence[str | None],
    real_nearest: Sequence[str | None],
    real_names: Sequence[str | None],
) -> dict[str, float] | None:
    hits = [near == name for near, name in zip(nearest, asked, strict=True) if name is not None]
    if not hits:
        return None
    real_hits = [near == name for near, name in zip(real_nearest, real_names, strict=True)]
    return _beside(metrics.share(np.array(hits)), metrics.share(np.array(real_hits)))


def _classes(judged: Judged, asked: Sequence[str | None], real: Real) -> dict[str, Any]:
    """Of every sub-type: its share by nearest neighbour; and of the pictures asked to be one, what became of them."""
    nearest, verdicts = np.array(judged.nearest, object), np.array(judged.verdicts)
    found = metrics.shares(judged.nearest, real.against.subtypes)
    usual = metrics.shares(names_of(real.against), real.against.subtypes)
    rows: dict[str, Any] = {}
    for name in real.against.subtypes:
        rows[name] = _beside(found[name], usual[name])
        mine = np.array([one == name for one in asked])
        if mine.any():
            rows[name] |= {
                "asked": int(mine.sum()),
                "drawn_as_asked": float((nearest[mine] == name).mean()),
                "sharp": float(judged.sharp[mine].mean()),
                "verdict_A": float((verdicts[mine] == "A").mean()),
            }
    return rows


def _sets(images: Array, real: Real) -> dict[str, Any]:
    """Fidelity and memorisation; null where there are too few pictures for them. Without held-out pictures nothing says
    how near to its training pictures an honest picture lies, so memorisation is null then, too.

    A model of mirror halves draws exact mirror images, which real bridges are but nearly, so its figures stand beside
    what training pictures score that are halves with their mirror images, too.
    """
    held, train = metrics.features(real.against.images), metrics.features(real.train.images)
    fake = metrics.features(images)
    if min(len(held), len(fake), len(train)) <= NEIGHBOURS:
        return {"fidelity": None, "memorisation": None}
    found, usual = metrics.fidelity(held, fake), _ceilings(held, train, real.train.labels, len(fake))
    beside = {name: _beside(found[name], usual[name]) for name in found}
    if real.symmetric_only:
        mirrored = metrics.features(_mirrored(real.train.images))
        for name, estimate in _ceilings(held, mirrored, real.train.labels, len(fake)).items():
            beside[name]["ceiling_mirrored"] = estimate.value
    return {"fidelity": beside, "memorisation": _memorisation(fake, train, held) if real.held_out else None}


def _ceilings(held: Array, train: Array, labels: Array, count: int) -> dict[str, metrics.Estimate]:
    """What `count` training pictures score, or all there are: the mean of DRAWS sets of them, the least and the most.

    One set of 1000 alone would leave a fortieth of its density to chance, one of 200 a twentieth.
    """
    draws = range(DRAWS if count < len(train) else 1)
    drawn = [metrics.fidelity(held, train[_evenly(labels, min(count, len(train)), draw)]) for draw in draws]
    values = {name: [one[name].value for one in drawn] for name in drawn[0]}
    return {name: metrics.Estimate(sum(each) / len(each), min(each), max(each)) for name, each in values.items()}


def _mirrored(images: Array) -> Array:
    """The left half of every other picture [N, H, W] and the right half of those between, unfolded."""
    either = mirror.halves(images).reshape(2, len(images), images.shape[1], -1)
    half = either[np.arange(len(images)) % 2, np.arange(len(images))]
    return np.concatenate([half, half[:, :, ::-1]], axis=2)


def _memorisation(fake: Array, train: Array, held: Array) -> dict[str, float]:
    copied = metrics.memorisation(fake, train, held)
    return {**copied.share._asdict(), "median_ratio": copied.median_ratio, "held_out_value": 0.05}


def _novelty(images: Array, judged: Judged) -> dict[str, Any]:
    novel = np.array([one.novel for one in judged.novelty])
    good = novel & judged.sharp & (np.array(judged.verdicts) == "A")
    order = np.flatnonzero(good)
    return {
        "novel": metrics.share(novel)._asdict(),
        "median_mismatch": float(np.median([one.mismatch for one in judged.novelty])),
        "kinds": {
            kind: sum(one.kind == kind for one in judged.novelty)
            for kind in ("known", "variant", "combination", "new shape", "blank")
        },
        "novel_sharp_A": int(good.sum()),
        "novel_sharp_A_distinct": len(metrics.distinct(images[order])) if len(order) else 0,
    }

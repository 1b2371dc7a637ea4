"""Discovery in a folder: candidates are made, judged and kept group by group, then ranked, named and shown.

candidates.jsonl   one line per candidate in order of their numbers, appended group by group: what a continued run reads
                   (while several processes run, candidates.0.jsonl and so on beside it)
designs.jsonl      the same with names and ranks, best first: first the designs (novel, sharp, verdict A, no two alike)
designs/*.png      the picture of every candidate, as it was made (bright on black)
frames/*.png       the chain of every candidate that may be shown: its frames from noise to end, one below the other
gallery.html       the best designs
summary.json       what each way of making yields
discover.json      what was asked for; a folder of another run is refused
discover.lock      there while a process makes candidates (lock.py)
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from bridge_ebm import bridges, gallery, generate, metrics, naming, plans, processes, structure, tracing
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.generate import GROUP, Made
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.models import Model
from bridge_ebm.novelty import ONE
from bridge_ebm.plans import Plan, Wishes
from bridge_ebm.studio import Held, Studio, on_device, sampler_of

CANDIDATES, DESIGNS, SUMMARY, REQUEST = "candidates.jsonl", "designs.jsonl", "summary.json", "discover.json"
SHOWN = 120  # designs in the gallery

_NOVEL_ENOUGH = 0.2  # mismatch from which on more counts no more

Record = dict[str, Any]


class Request(NamedTuple):
    """What was asked for: `mix` of ways, `wishes`, the `seed` and the `temperature` of the chains (0: none)."""

    seed: int
    mix: tuple[tuple[str, float], ...]
    wishes: Wishes
    temperature: float = 0.0


def discover(
    folder: Path, studio: Studio, request: Request, num: int, real: metrics.Reference
) -> Iterator[list[Record]]:
    """Make and judge candidates 0 .. num - 1, continuing what `folder` holds; yields the records group by group.

    Records of an earlier run come first, at once. A candidate is a function of (model, request, its number): a run
    that is killed and continued, or cut into parts, ends with the same files. Several processes divide the groups among
    themselves, and each yields its own, made by its devices side by side; afterwards all are in `folder`.
    """
    if processes.is_first():
        (folder / "designs").mkdir(exist_ok=True)
        (folder / "frames").mkdir(exist_ok=True)
        _merge(folder, num)
    processes.wait_for_all("candidates of an earlier run are merged")
    done = candidates(folder, num)
    if done:
        yield done
    numbers = {record["index"] for record in done}
    missing = [first for first in range(0, num, GROUP) if first not in numbers]
    with _log_file(folder).open("a", encoding="utf-8") as log:
        for first, drawn, made in _made(studio, request, processes.share(missing)):
            wanted = min(GROUP, num - first)
            records = judge(made[:wanted], drawn[:wanted], first, request, real)
            for record, one in zip(records, made, strict=False):
                _keep_pictures(folder, record, one)
            log.write("".join(json.dumps(record) + "\n" for record in records))
            log.flush()
            yield records
    processes.wait_for_all("all candidates are made")
    if processes.several() and processes.is_first():
        _merge(folder, num)


def _made(studio: Studio, request: Request, firsts: Sequence[int]) -> Iterator[tuple[int, list[Plan], list[Made]]]:
    """The groups that begin with these candidates, in order, each with its plans; made by this process's devices."""

    def drawn(first: int) -> list[Plan]:
        numbers = range(first, first + GROUP)
        return [plans.draw(request.seed, k, request.mix, request.wishes, studio.subtypes) for k in numbers]

    def make(job: tuple[Studio, jax.Device, int]) -> tuple[int, list[Plan], list[Made]]:
        mine, device, first = job
        its = drawn(first)
        with jax.default_device(device):
            return first, its, generate.make_group(mine, request.seed, first // GROUP, its)

    devices = jax.local_devices()
    if len(devices) == 1:
        yield from (make((studio, devices[0], first)) for first in firsts)
        return
    studios = [(on_device(studio, device), device) for device in devices]
    jobs = [(*studios[k % len(devices)], first) for k, first in enumerate(firsts)]
    with ThreadPoolExecutor(len(devices)) as pool:
        yield from pool.map(make, jobs)


def _log_file(folder: Path) -> Path:
    """Where this process notes its candidates: in the one file, or in one of its own if there are several."""
    return folder / (f"candidates.{processes.number()}.jsonl" if processes.several() else CANDIDATES)


def _merge(folder: Path, num: int) -> None:
    """Put the candidates that are there into one file, by number, each once, but for groups of which one of the first
    `num` is missing: these are made anew.
    """
    parts = sorted(folder.glob("candidates.*.jsonl"))
    found = {record["index"]: record for path in [folder / CANDIDATES, *parts] for record in read_lines(path)}
    firsts = [
        first for first in range(0, num, GROUP) if any(k not in found for k in range(first, min(first + GROUP, num)))
    ]
    anew = {k for first in firsts for k in range(first, first + GROUP)}
    kept = [found[k] for k in sorted(found) if k not in anew]
    write_atomically(folder / CANDIDATES, "".join(json.dumps(record) + "\n" for record in kept))
    for path in parts:
        path.unlink()


def candidates(folder: Path, num: int) -> list[Record]:
    """The records of the first `num` candidates that are in `folder`."""
    return [record for record in read_lines(folder / CANDIDATES) if record["index"] < num]


def read_lines(path: Path) -> list[Record]:
    """The records of a .jsonl file, in order, up to a line that is none: the last may be cut short by a kill."""
    records: list[Record] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
            int(record["index"])
        except (ValueError, TypeError, KeyError):
            break
        records.append(record)
    return records


def _keep_pictures(folder: Path, record: Record, made: Made) -> None:
    Image.fromarray(made.picture).save(folder / record["file"])
    if record["frames"]:
        Image.fromarray(made.frames.reshape(-1, made.frames.shape[2])).save(folder / record["frames"])


def judge(
    made: Sequence[Made], drawn: Sequence[Plan], first: int, request: Request, real: metrics.Reference
) -> list[Record]:
    """The records of candidates `first` and on: how they were made, and what the measures say of their pictures."""
    images = np.stack([one.picture for one in made])
    defined = metrics.definition(images)
    sharp = np.all(metrics.in_range(defined, *images.shape[1:]), axis=0)
    novel = metrics.novelty(images, real)
    records = []
    for k, (one, plan) in enumerate(zip(made, drawn, strict=True)):
        analysis = structure.analyse(one.picture)
        shown = naming.regions(one.picture, analysis, real)
        figures = {name: _finite(values[k]) for name, values in defined._asdict().items()}
        usable = bool(sharp[k]) and novel[k].novel and analysis.verdict != "C"
        records.append(
            {
                "index": first + k,
                "file": f"designs/{first + k:06d}.png",
                "name": naming.name(shown),
                "energy": _finite(one.energies[-1]),
                "verdict": analysis.verdict,
                "reasons": list(analysis.reasons),
                "novelty": _finite(novel[k].mismatch),
                "novel": novel[k].novel,
                "kind": novel[k].kind,
                "nearest": novel[k].nearest,
                "explained_by": _explained(novel[k]),
                "families": list(naming.families(shown)),
                "definition": figures,
                "sharp": bool(sharp[k]),
                "symmetry": _finite(analysis.symmetry),
                "axial_share": _finite(analysis.axial_share),
                "gain": _finite(analysis.gain),
                "how": _how(plan, request.seed, first + k),
                "frames": f"frames/{first + k:06d}.png" if usable else "",
                "chain": {"steps": list(one.steps), "energies": [_finite(energy) for energy in one.energies]},
            }
        )
    return records


def _finite(value: float) -> float | None:
    """A number for JSON, to six digits; None for what is not finite."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None


def _explained(novel: metrics.Novelty) -> dict[str, float | None]:
    """The sub-type, or the two, that explain the picture, each with its share."""
    if novel.one_share >= ONE:
        return {novel.one: _finite(novel.one_share)}
    return {name: _finite(share) for name, share in zip(novel.pair, novel.shares, strict=True)}


def _how(plan: Plan, seed: int, index: int) -> Record:
    spans = {
        place: span.above if span.above == span.below else f"{span.above} over {span.below}"
        for place, span in zip(naming.SPANS, plan.spans, strict=True)
    }
    if plan.way not in (*plans.MIX, "regional"):
        spans = {word: name for word, name in (("of", plan.spans[1].above), ("and", plan.other)) if name}
    return {"way": plan.way, **spans, "seed": seed, "index": index}


def is_design(record: Record) -> bool:
    """Whether a candidate is novel, sharp and of verdict A at once."""
    return bool(record["novel"] and record["sharp"] and record["verdict"] == "A")


def combines(record: Record) -> bool:
    """Whether a candidate's picture is not explained by one sub-type and shows forms of several families."""
    return len(record["explained_by"]) > 1 and len(record["families"]) > 1


def score(record: Record) -> float:
    """What designs are ranked by: novelty up to a point, and how much of the load is carried axially."""
    return min((record["novelty"] or 0.0) / _NOVEL_ENOUGH, 1.0) + (record["axial_share"] or 0.0)


def rank(folder: Path, records: Sequence[Record]) -> list[Record]:
    """All candidates, best first: designs without near-duplicates, the best of every name before the second of any.

    Designs get a `rank` from 1, a near-duplicate `duplicate_of` (a file); other candidates follow by number.
    """
    designs = sorted((record for record in records if is_design(record)), key=lambda r: (-score(r), r["index"]))
    if not designs:
        return [{"rank": None, "duplicate_of": None, **record} for record in records]
    pictures = read_pictures(folder, designs)
    apart = metrics.pairwise_mismatch(pictures)
    kept: list[int] = []
    twin: dict[int, int] = {}
    for k in range(len(designs)):
        nearest = min(kept, key=lambda j: apart[k, j], default=None)
        if nearest is None or apart[k, nearest] > metrics.NOVEL:
            kept.append(k)
        else:
            twin[k] = nearest
    seen: dict[str, int] = {}
    turns = []
    for k in kept:
        turns.append(seen.setdefault(designs[k]["name"], 0))
        seen[designs[k]["name"]] += 1
    order = sorted(range(len(kept)), key=lambda place: turns[place])  # stable: by score within a turn
    first = [{"rank": n + 1, "duplicate_of": None, **designs[kept[place]]} for n, place in enumerate(order)]
    same = [{"rank": None, "duplicate_of": designs[j]["file"], **designs[k]} for k, j in twin.items()]
    rest = [{"rank": None, "duplicate_of": None, **record} for record in records if not is_design(record)]
    return first + same + rest


def read_pictures(folder: Path, records: Sequence[Record]) -> np.ndarray:
    """The pictures of records, uint8 [N, H, W]."""
    return np.stack([np.asarray(Image.open(folder / record["file"])) for record in records])


def summary(ranked: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Yield per way of making, and of all: how many candidates are each thing, how many designs, how many distinct."""
    ways = dict.fromkeys(record["how"]["way"] for record in sorted(ranked, key=lambda record: record["index"]))
    groups = {way: [record for record in ranked if record["how"]["way"] == way] for way in ways}
    return {
        way: {
            "candidates": len(mine),
            "sharp": sum(record["sharp"] for record in mine),
            "novel": sum(record["novel"] for record in mine),
            "A": sum(record["verdict"] == "A" for record in mine),
            "designs": sum(map(is_design, mine)),
            "distinct": sum(record["rank"] is not None for record in mine),
            "combine_families": sum(record["rank"] is not None and combines(record) for record in mine),
        }
        for way, mine in {**groups, "all": list(ranked)}.items()
    }


def write_results(folder: Path, records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Rank all candidates; write designs.jsonl, summary.json and the gallery; returns the summary."""
    ranked = rank(folder, records)
    write_atomically(folder / DESIGNS, "".join(json.dumps(record) + "\n" for record in ranked))
    counts = summary(ranked)
    write_atomically(folder / SUMMARY, json.dumps(counts, indent=1) + "\n")
    best = [record for record in ranked if record["rank"] is not None][:SHOWN]
    cards = [_card(folder, record) for record in best]
    gallery.write(folder / "gallery.html", cards, summary=_shown(len(best), counts["all"]))
    return counts


def _shown(number: int, of: dict[str, int]) -> str:
    """Which designs the gallery shows: `number`, `of` those that the summary counts."""
    best = f"The best {number} of " if number < of["distinct"] else ""
    designs = f"{of['distinct']} distinct design{'s' * (of['distinct'] != 1)}"
    candidates = f"{of['candidates']} candidate{'s' * (of['candidates'] != 1)}"
    return f"{best}{designs} (novel, sharp, standing as drawn), from {candidates}; all are in {DESIGNS}"


def _card(folder: Path, record: Record) -> gallery.Design:
    """A design as the gallery shows it."""
    image = np.asarray(Image.open(folder / record["file"]))
    analysis = structure.analyse(image)
    strip = np.asarray(Image.open(folder / record["frames"]))
    return gallery.Design(
        record=record,
        image=image,
        forces=tracing.forces(image, analysis),
        nearest_image=_nearest(image, record["nearest"]),
        frames=list(strip.reshape(-1, *image.shape)),
        energies=record["chain"]["energies"],
        svg=tracing.svg(image, analysis, record["name"]),
        steps=record["chain"]["steps"],
    )


def _nearest(image: np.ndarray, subtype: str | None) -> np.ndarray | None:
    """The base picture of the nearest sub-type that is most like `image`, pixel by pixel."""
    if subtype not in bridges.SUBTYPES:
        return None
    base = np.stack([bridges.render(subtype, k, *image.shape) for k in range(bridges.WIDTHS)])
    return np.asarray(base[int(np.abs(base.astype(float) - image).mean((1, 2)).argmin())])


def claim(folder: Path, model: Model, request: Request, held: Held | None) -> None:
    """Note in `folder` what is asked for, or check that it is what was asked there before (more candidates may be).

    Raises an `InputError` for the folder of another request.
    """
    kept = b"" if held is None else held.mask.tobytes() + held.picture.tobytes()
    coarse = _coarse_models(model)
    record = {
        "seed": request.seed,
        "ways": [list(share) for share in request.mix],
        "temperature": request.temperature,
        **{name: list(wish) if isinstance(wish, tuple) else wish for name, wish in request.wishes._asdict().items()},
        "keep_crc32": zlib.crc32(kept),
        "model_crc32": _checksum([model]),
        "coarse_crc32": _checksum(coarse),
        # A training's work directory may be given another sampler while its weights stay.
        "sampler": [_sampler(sampler_of(model)), *(_sampler(one.settings.langevin) for one in coarse)],
    }
    # An older folder does not name its sampler, and no checksum where there is no coarse model.
    older = {"coarse_crc32": 0, "sampler": record["sampler"]}
    path = folder / REQUEST
    if path.exists():
        try:
            before = older | json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in record if before.get(name) != record[name]]
        except (OSError, ValueError, TypeError):
            raise InputError(f"{path}: cannot be read; name a fresh --out") from None
        if differing:
            raise InputError(
                f"--out={folder}: holds a discovery with another {', '.join(differing)}; name a fresh folder, "
                "or ask for the same again"
            )
    elif (folder / CANDIDATES).exists():
        raise InputError(f"--out={folder}: holds {CANDIDATES} but no {REQUEST}; name a fresh folder")
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def _coarse_models(model: Model) -> list[Model]:
    """The model that its chains begin at, the one that those of that begin at, and so on."""
    return [] if model.coarse is None else [model.coarse, *_coarse_models(model.coarse)]


def _sampler(settings: LangevinSettings) -> list[float]:
    """A sampler's constants; an older folder names no tolerance, as there was none."""
    return list(settings if settings.tolerance else settings[:-1])


def _checksum(models: Sequence[Model]) -> int:
    """CRC-32 of the weights; 0 of no model."""
    crc = 0
    for array in jax.tree.leaves([(model.params, model.batch_stats) for model in models]):
        crc = zlib.crc32(np.asarray(array).tobytes(), crc)
    return crc

"""The files of a training's work directory: what run it is, and its metrics.

settings.json   the model and the training it belongs to; a run with other settings is refused
run.cfg         a flag file that repeats the run
metrics.jsonl   one object per logged update, each step once
events.jsonl    what else happened: updates skipped, chains replaced, rollbacks, damage, stops, giving up (events.py)
rollbacks.json  the returns to an earlier checkpoint (divergence.py)
training.lock   there while a process trains (lock.py)
"""

import dataclasses
import json
import math
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bridge_ebm import checkpoint
from bridge_ebm.data import Dataset
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.lock import LOCK_FILE
from bridge_ebm.models import SETTINGS_FILE, ModelSettings
from bridge_ebm.settings import TrainSettings, from_dict, to_flagfile
from bridge_ebm.tensorboard import EventFile

METRICS_FILE = "metrics.jsonl"
FLAG_FILE = "run.cfg"

# A longer or shorter training, saves at other times, other sample pictures and another use of memory are still the same
# run.
MAY_CHANGE = (
    *("epochs", "save_every", "microbatch", "remat"),
    *("sample_steps", "sample_step_size", "sample_tolerance", "coarse_model"),
)


def finite_or_none(values: Any) -> Any:
    """An array or number as (nested lists of) Python floats for JSON, None where it is not finite."""
    array = np.asarray(values, float)
    objects = array.astype(object)
    objects[~np.isfinite(array)] = None
    return objects.tolist()


def open_run(workdir: Path, settings: TrainSettings, dataset: Dataset) -> None:
    """Claim a new work directory for the run, or check that it holds this run; writes settings.json and run.cfg.

    `dataset` is the training data: other pictures, or labels, under the same flags are another run. Raises an
    `InputError` that names the flag that differs.
    """
    checksums = data_checksums(dataset)
    check_run(workdir, settings, checksums)
    path = workdir / SETTINGS_FILE
    record = {
        "model": dataclasses.asdict(model_settings(settings, dataset.subtypes)),
        "training": dataclasses.asdict(settings),
        **checksums,
    }
    write_atomically(
        workdir / FLAG_FILE,
        to_flagfile(settings, f"python experiments/train.py --flagfile={FLAG_FILE} --workdir=DIR"),
    )
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def data_checksums(dataset: Dataset) -> dict[str, int]:
    """CRC-32 of the pictures, and of what is said of them: their sub-types and base pictures."""
    said = [np.asarray(dataset.labels, np.int32).tobytes(), np.asarray(dataset.base, np.int32).tobytes()]
    names = json.dumps(dataset.subtypes).encode()
    return {"data_crc32": zlib.crc32(dataset.images.tobytes()), "labels_crc32": zlib.crc32(b"".join([*said, names]))}


def check_run(workdir: Path, settings: TrainSettings, checksums: dict[str, int]) -> None:
    """Raise an `InputError` unless `workdir` is empty, or holds this run on pictures of these `data_checksums`.

    Writes nothing.
    """
    path = workdir / SETTINGS_FILE
    if checkpoint.written_without(workdir, "training"):
        raise InputError(
            f"--workdir={workdir}: holds an exported model, which cannot be continued; use a fresh --workdir"
        )
    if path.exists():
        _check_same_run(path, settings, checksums)
    elif any(not _comes_first(entry.name) for entry in workdir.iterdir()):
        raise InputError(
            f"--workdir={workdir}: holds files but no {SETTINGS_FILE}, so it is not a run; use a fresh folder"
        )


def _comes_first(name: str) -> bool:
    """Whether a file of this name may lie in a work directory before its settings do."""
    first = (LOCK_FILE, FLAG_FILE, f"{FLAG_FILE}.partial", f"{SETTINGS_FILE}.partial")
    return name in first or name.startswith(".write_test")


def model_settings(settings: TrainSettings, subtypes: tuple[str, ...]) -> ModelSettings:
    """The settings under which `load_model` rebuilds and samples what this training on `subtypes` makes."""
    return ModelSettings(
        network=settings.network,
        channels=settings.channels,
        reach=settings.reach,
        precision=settings.precision,
        subtypes=subtypes if settings.conditional else (),
        mirror=settings.mirror,
        height=settings.height,
        width=settings.width,
        start="uniform_mirrored" if settings.mirror else "uniform",
        num_steps=settings.sample_steps,
        step_size=settings.sample_step_size or settings.step_size,
        noise=settings.noise,
        gradient_clip=settings.gradient_clip,
        coarse_model=settings.coarse_model,
        tolerance=settings.sample_tolerance,
    )


def _check_same_run(path: Path, settings: TrainSettings, checksums: dict[str, int]) -> None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        stored = from_dict(record["training"], str(path))
        older = {"labels_crc32": checksums["labels_crc32"]}  # an older run has none of its labels
        changed = any({**older, **record}[name] != crc for name, crc in checksums.items())
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); use a fresh --workdir") from None
    for field in dataclasses.fields(settings):
        old, new = getattr(stored, field.name), getattr(settings, field.name)
        if old != new and field.name not in MAY_CHANGE:
            raise InputError(
                f"--workdir={path.parent}: holds a run with --{field.name}={old}, not {new}; continue it with "
                f"--flagfile={path.parent / FLAG_FILE} or use a fresh --workdir"
            )
    if changed:
        raise InputError(
            f"--data={settings.data}: the pictures, the sub-types or bases they are listed under, or how bridge_ebm "
            f"prepares them, changed since {path.parent} was started; use a fresh --workdir"
        )


class MetricsLog:
    """Appends to metrics.jsonl and to TensorBoard events; use it in a `with` block.

    Opened at `step`, it first drops what an interrupted run logged after the checkpoint it continues from.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / METRICS_FILE
        kept = [row for row in read_metrics(workdir) if row["step"] <= step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        with ExitStack() as opened:  # what is open is closed, even if the disk is full
            self._file = opened.enter_context(path.open("a", encoding="utf-8", buffering=1))
            self._board = EventFile(workdir, step + 1)
            opened.callback(self._board.close)
            self._opened = opened.pop_all()

    def write(self, row: dict[str, Any]) -> None:
        """Log one object of numbers with its `step`; a number that is not finite is logged as null."""
        row = {key: value if math.isfinite(value) else None for key, value in row.items()}
        self._file.write(json.dumps(row) + "\n")
        shown = {key: value for key, value in row.items() if key != "step" and value is not None}
        self._board.add(row["step"], shown, time.time())

    def flush(self) -> None:
        """Put what was logged on the disk, for TensorBoard to show."""
        self._board.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The logged objects in order, each step once; lines that are damaged, or cut short by a kill, are left out."""
    path = workdir / METRICS_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    rows = {row["step"]: row for row in map(_parsed_row, text.splitlines()) if row is not None}
    return [rows[step] for step in sorted(rows)]


def _parsed_row(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, None where it is none: an object of finite numbers and nulls with its `step`."""
    try:
        row = json.loads(line)
        numbers = all(value is None or math.isfinite(value) for value in row.values())
        return row if numbers and isinstance(row["step"], int) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None

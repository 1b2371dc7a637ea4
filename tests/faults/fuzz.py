"""Broken input of every kind: each comes out as what it is, or as one line that names it."""

import contextlib
import io
import json
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from bridge_ebm import data, divergence, events, health, models, pictures, plotting, sketch
from bridge_ebm.errors import InputError
from bridge_ebm.settings import from_dict, to_flagfile
from bridge_ebm.workdir import MetricsLog, read_metrics
from faults import tiny

_HANGS = 60  # seconds; on a machine that is busy ten are not enough
_NAMES = ("a", "ü", "橋", "🌉", "a b", "-x", "'; rm -rf x", "<script>", "%s{}", "x" * 200, "e\u0301", "\u202e", "a\nb")
_FORMATS = {
    "png": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"),
    "jpeg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB"),
    "tiff": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB", "YCbCr"),
    "gif": ("L", "P"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("L", "RGB"),
    "tga": ("L", "RGB"),
    "ico": ("RGBA",),
    "pcx": ("L", "RGB"),
    "sgi": ("L", "RGB"),
    "im": ("L", "RGB"),
    "jpeg2000": ("L", "RGB"),
    "dds": ("RGBA",),
    "eps": ("L", "RGB"),
    "pdf": ("L",),
}
_ODD_JSON = (
    *("[" * 50_000, "{}", "[]", "null", "NaN", "1" * 5000, '"', '{"step": 1}', '{"a": ' * 2000, '{"step": 1e999}'),
    *('{"training": null, "model": {}}', '{"model": {"subtypes": 3}}', "\ufeff{}", '{"step": -5, "epoch": true}'),
)


def run(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Try `count` inputs; every one gets a folder of its own, in which nothing but the input may be afterwards."""
    draw = random.Random(seed)
    kinds = _kinds(folder)
    figures: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "slowest": 0.0, "failures": []}
    with _alarm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            name, (make, read) = list(kinds.items())[number % len(kinds)]
            place = folder / "input"
            place.mkdir()
            path = make(draw, place)
            started, before = time.monotonic(), _listing(folder)
            outcome = _outcome(read, path)
            figures["slowest"] = max(figures["slowest"], time.monotonic() - started)
            if _listing(folder) != before:
                outcome = "something was written"
            figures["inputs"] += 1
            if outcome in ("read", "refused"):
                figures[outcome] += 1
            else:
                figures["failures"].append(f"{number} {name}: {outcome}")
            _clear(place)
    return figures | {"kinds": len(kinds), "passed": not figures["failures"]}


def _outcome(read: Callable[[Path], Any], path: Path) -> str:
    """What becomes of an input."""
    signal.alarm(_HANGS)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            read(path)
        return "read"
    except InputError as error:
        lines = len(str(error).splitlines())
        return "refused" if lines == 1 else f"refused in {lines} lines"
    except SystemExit as error:  # absl on flags
        return "refused" if error.code not in (0, None) else "ended"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def hangs(number: int, frame: Any) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*") if not path.is_dir())


def _clear(place: Path) -> None:
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    place.rmdir()


Kind = tuple[Callable[[random.Random, Path], Path], Callable[[Path], Any]]


def _kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of input: how to make a broken one, and who reads it."""
    images, texts = _images(), _texts(folder)

    def picture(draw: random.Random, place: Path) -> Path:
        path = place / (draw.choice(_NAMES) + draw.choice(pictures.SUFFIXES))
        path.write_bytes(_mutated(draw, draw.choice(images), images))
        return path

    def odd_file(draw: random.Random, place: Path) -> Path:
        return _odd_file(draw, place / ("odd" + draw.choice(pictures.SUFFIXES)))

    def data_set(draw: random.Random, place: Path) -> Path:
        for _ in range(draw.randrange(3)):
            inner = place / draw.choice(_NAMES)
            inner.mkdir(exist_ok=True)
            for _ in range(draw.randrange(3)):
                picture(draw, inner)
            if draw.random() < 0.3:
                _odd_file(draw, inner / f"odd_{draw.randrange(10**9)}.png")
        if draw.random() < 0.3:
            (place / pictures.LISTING).write_bytes(_mutated(draw, b'{"base": {"a/a.png": 3}}', images))
        return place

    def file_of(name: str) -> Callable[[random.Random, Path], Path]:
        def make(draw: random.Random, place: Path) -> Path:
            path = place / name
            odd = draw.choice(_ODD_JSON).encode("utf-8", "surrogatepass")
            path.write_bytes(odd if draw.random() < 0.2 else _mutated(draw, texts[name], [*texts.values()]))
            return path

        return make

    def read_run(path: Path) -> None:
        health.summary(run := health.read_run(path.parent))
        health.diagnose(run)

    def read_rows(path: Path) -> None:
        rows = read_metrics(path.parent)
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
        plotting.CURVES  # noqa: B018

    return {
        "picture": (picture, lambda path: _checked(pictures.read_picture(path, 16, 32))),
        "picture again": (picture, lambda path: _checked(pictures.read_picture(path, 48, 192))),
        "odd file": (odd_file, lambda path: _checked(pictures.read_picture(path, 16, 32))),
        "mask": (picture, lambda path: sketch.read_held(path, 16, 32)),
        "odd mask": (odd_file, lambda path: sketch.read_held(path, 16, 32)),
        "data set": (data_set, lambda path: data.load_folder(path, 16, 32)),
        "settings of a run": (file_of("settings.json"), read_run),
        "settings of a model": (file_of("settings.json"), lambda path: models.load_model(path.parent)),
        "metrics": (file_of("metrics.jsonl"), read_rows),
        "events": (file_of(events.EVENTS_FILE), lambda path: events.read(path.parent)),
        "rollbacks": (file_of(divergence.ROLLBACKS_FILE), lambda path: divergence.read_rollbacks(path.parent)),
        "settings record": (file_of("settings.json"), _read_record),
        "flag file": (file_of("run.cfg"), _read_flags),
    }


def _checked(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.shape in ((16, 32), (48, 192))


def _read_record(path: Path) -> None:
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise InputError("not JSON") from None
    from_dict(record, "settings.json")


def _read_flags(path: Path) -> None:
    """As experiments/cli.py reads a flag file."""
    import cli

    if "learning_rate" not in flags.FLAGS:
        cli.define_train_settings()
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].value = flags.FLAGS[name].default
    cli.parsed([sys.argv[0], f"--flagfile={path}"])
    cli.read_train_settings()


def _images() -> list[bytes]:
    """A small picture in every format and mode that Pillow writes."""
    grey = Image.fromarray(tiny.dataset().images[0])
    found = []
    for kind, modes in _FORMATS.items():
        for mode in modes:
            with contextlib.suppress(Exception):  # a format this Pillow was built without
                image = grey.convert("RGB").convert(mode) if mode not in ("I;16", "F") else grey.convert("I")
                image = image.convert("F") if mode == "F" else image
                file = io.BytesIO()
                image.save(file, format=kind)
                found.append(file.getvalue())
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "jpeg"):
        with contextlib.suppress(Exception):
            file = io.BytesIO()
            (grey.convert("1") if compression == "group4" else grey).save(file, "tiff", compression=compression)
            found.append(file.getvalue())
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "png")
    return [*found, bomb.getvalue()]


def _texts(folder: Path) -> dict[str, bytes]:
    """Whole files of a run, by name."""
    workdir = folder / "whole"
    with tiny.compiled_once():
        tiny.train(workdir, 2, tiny.settings(save_every=2))
    with MetricsLog(workdir, 2) as log:
        log.write({"step": 3, "epoch": 1, "loss": float("nan"), "skipped": 1.0})
    return {
        "settings.json": (workdir / "settings.json").read_bytes(),
        "metrics.jsonl": (workdir / "metrics.jsonl").read_bytes(),
        "run.cfg": to_flagfile(tiny.settings(), "train").encode(),
        events.EVENTS_FILE: b'{"step": 1, "kind": "skipped", "text": "x", "time": ""}\n' * 3,
        divergence.ROLLBACKS_FILE: divergence.rollbacks_text([divergence.Rollback(5, 2, "x")]).encode(),
    }


def _mutated(draw: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """`content` with some of its bytes lost, changed, doubled or replaced by another file's."""
    raw = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 2, 4, 8))):
        at, length = draw.randrange(len(raw) + 1), draw.choice((1, 1, 2, 4, 16, 200))
        match draw.randrange(7):
            case 0:
                del raw[at:]
            case 1:
                raw[at : at + length] = draw.randbytes(length)
            case 2:
                del raw[at : at + length]
            case 3:
                raw[at:at] = raw[at : at + length] * draw.choice((1, 3, 50))
            case 4:
                other = draw.choice(others)
                start = draw.randrange(len(other) + 1)
                raw[at : at + length] = other[start : start + length]
            case 5:
                raw[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\x10\0"))
            case 6:
                raw[at:at] = draw.choice(
                    (b"\0", b"\n", b"[" * 2000, b"9" * 400, b"-1", b"1e400", b"null", "é".encode())
                )
    return bytes(raw)


def _odd_file(draw: random.Random, path: Path) -> Path:
    """What has the name of a picture and is none."""
    import os

    match draw.randrange(8):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to("gone")
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.symlink_to("/dev/null")
        case 5:
            path.mkdir()
        case 6:
            path.write_bytes(b"")
        case _:
            path.symlink_to(Path("/proc/self/mem"))
    return path

"""The gallery: one HTML file that shows designs, sorts, filters and exports them, and needs nothing but itself."""

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bridge_ebm import raster
from bridge_ebm.bridges import SUBTYPES
from bridge_ebm.files import write_atomically

_SCRIPTS = ("shared.js", "export.js", "large.js", "cards.js")  # in this order they make one script
_NUMBERS = ("energy", "novelty", "symmetry", "axial_share", "gain")
_FRAME, _DRAWING = 256, 960  # pixels: wider pictures are made smaller
_ENERGIES = 200

Array = np.ndarray


class Design(NamedTuple):
    """One card of the gallery.

    `record` is the design's line of designs.jsonl with its `name`: texts `name`, `file`, `verdict`, `nearest` (a
    sub-type), `how`; `reasons`, texts; `explained_by`, sub-types with their shares, a mapping or pairs; `definition`,
    a mapping; the numbers `energy`, `novelty`, `symmetry`, `axial_share`, `gain`. Numbers may be None, keys may be
    missing. `how` is a mapping whose `way` names the way of making, or a text that begins with it, up to the first
    comma, colon or semicolon.

    `image`, `nearest_image` and `frames` are uint8 [H, W], bright on black; `nearest_image` may be None. `forces` is
    the force drawing (`tracing.forces`) as uint8 [h, w, 3] or as the bytes of a picture file, or None. `frames` are
    pictures of the chain, the first the noise, the last its end (about 8 are enough, and keep the page small), and
    `steps` says at which step each was taken (empty: at equal distances). `energies` run from the first frame to the
    last at equal distances, as many as there are. All three may be empty. `svg` is what `tracing.svg` wrote, or "".
    """

    record: Mapping[str, Any]
    image: Array
    forces: Array | bytes | None
    nearest_image: Array | None
    frames: Sequence[Array]
    energies: Sequence[float]
    svg: str
    steps: Sequence[int] = ()


def write(path: Path, designs: Sequence[Design], title: str = "New bridge types", summary: str = "") -> None:
    """Write the page that shows `designs`, best first, to the file `path`: whole, or not at all.

    `summary` says below the title which designs these are.

    Whatever the texts hold is shown as text. The page forbids itself every address, so it can fetch or send nothing.
    """
    content = {"subtypes": SUBTYPES, "designs": [_entry(rank, design) for rank, design in enumerate(designs)]}
    style, script = _part("style.css"), "\n".join(_part(name) for name in _SCRIPTS)
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_checksum(style)}'; script-src '{_checksum(script)}'"
    )
    page = Template(_part("page.html")).substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        policy=policy,
        style=style,
        script=script,
        data=_embedded(content),
    )
    write_atomically(path, page)


def _part(name: str) -> str:
    return resources.files("bridge_ebm").joinpath("page", name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    """What a Content-Security-Policy calls the one script or style that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(content: object) -> str:
    """JSON that may stand in a script element: no text in it can end the element or open a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _entry(rank: int, design: Design) -> dict[str, Any]:
    """What the page knows of a design."""
    record = design.record
    dark = 255 - np.asarray(design.image)
    shares = _pairs(record.get("explained_by"))
    nearest = _text(record.get("nearest"))
    how = record.get("how")
    return {
        "rank": rank,
        "id": hashlib.sha256(repr(dark.shape).encode() + dark.tobytes()).hexdigest()[:16],
        "name": _text(record.get("name")) or _text(record.get("file")) or f"design {rank + 1}",
        "file": _text(record.get("file")),
        "verdict": _text(record.get("verdict")),
        "reasons": [_text(reason) for reason in record.get("reasons") or ()],
        "nearest": nearest,
        "parts": shares,
        "subtypes": [name for name, _ in shares] or ([nearest] if nearest else []),
        "how": ", ".join(f"{key} {value}" for key, value in how.items()) if isinstance(how, Mapping) else _text(how),
        "way": _way(how),
        "definition": {key: _finite(value) for key, value in (record.get("definition") or {}).items()},
        **{key: _finite(record.get(key)) for key in _NUMBERS},
        "width": dark.shape[1],
        "height": dark.shape[0],
        "image": _png(Image.fromarray(dark)),
        "forces": None if design.forces is None else _drawing(design.forces),
        "nearest_image": None if design.nearest_image is None else _png(Image.fromarray(255 - design.nearest_image)),
        "frames": [_frame(255 - np.asarray(frame)) for frame in design.frames],
        "steps": [int(step) for step in design.steps],
        "energies": [_finite(energy) for energy in _thinned(design.energies)],
        "svg": design.svg,
    }


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _finite(value: Any) -> float | None:
    """A number to six digits; None for what is missing or not finite."""
    return float(f"{float(value):.6g}") if value is not None and math.isfinite(value) else None


def _pairs(shares: Any) -> list[tuple[str, float | None]]:
    """Sub-types with their shares, from a mapping, pairs or names alone."""
    items = shares.items() if isinstance(shares, Mapping) else shares or ()
    return [(item, None) if isinstance(item, str) else (str(item[0]), _finite(item[1])) for item in items]


def _way(how: Any) -> str:
    return _text(how.get("way")) if isinstance(how, Mapping) else re.split("[,:;]", _text(how))[0].strip()


def _thinned(energies: Sequence[float]) -> Sequence[float]:
    """At most 200 of them, at equal distances from the first to the last, between neighbours where need be."""
    if len(energies) <= _ENERGIES:
        return energies
    where = np.linspace(0, len(energies) - 1, _ENERGIES)
    return [float(e) for e in np.interp(where, np.arange(len(energies)), np.array(energies, float))]


def _png(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _frame(frame: Array) -> str:
    """A frame of a chain, to look at: at most 256 columns and 16 greys, because noise resists compression."""
    shrink = max(1.0, frame.shape[1] / _FRAME)
    small = raster.area_average(frame, round(frame.shape[0] / shrink), round(frame.shape[1] / shrink))
    image = Image.frombytes("P", small.shape[::-1], np.rint(small / 17).astype(np.uint8).tobytes())
    image.putpalette([17 * grey for grey in range(16) for _ in range(3)])
    return _png(image, bits=4)


def _drawing(forces: Array | bytes) -> str:
    """A drawing in few colours, as 8-bit palette PNG at most 960 pixels wide."""
    image = Image.open(io.BytesIO(forces)) if isinstance(forces, bytes) else Image.fromarray(forces)
    image = image.convert("RGB")
    if image.width > _DRAWING:
        image = image.resize((_DRAWING, round(image.height * _DRAWING / image.width)), Image.Resampling.LANCZOS)
    return _png(image.quantize(32, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))

"""Folders of bridge pictures: reading any, writing ours.

A data set on disk is a folder with one sub-folder of pictures per sub-type. Whatever the file format, the mode and the
polarity, a picture comes out as uint8 [H, W], bright bridge on black.
"""

import json
import os
import re
import stat
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from bridge_ebm import bridges, raster
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 40_000_000  # per picture; anything larger is refused before it is decoded
LISTING = "dataset.json"
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # no other decoder may start, whatever a file calls itself
_AUTHOR = {  # folder names of the paper's author
    "beam three span": "beam",
    "beam v type": "v_pier_frame",
    "arch top bear": "deck_arch",
    "arch bottom bear": "through_arch",
    "cable harp shaped": "harp_cable_stayed",
    "cable fan shaped": "fan_cable_stayed",
    "suspension vertical sling": "vertical_suspension",
    "suspension diagonal sling": "diagonal_suspension",
}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which "8.png" comes before "16.png"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _visible(folder: Path) -> list[Path]:
    try:
        found = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
    except OSError as error:
        raise InputError(f"{folder}: cannot read this folder ({error.strerror}); check its permissions") from None
    return sorted(found, key=lambda entry: (_natural(entry.name), entry.name))


def _is_picture(entry: Path) -> bool:
    return entry.suffix.lower() in SUFFIXES and not _is_folder(entry)


def _is_folder(entry: Path) -> bool:
    """As `Path.is_dir`, which raises on names that are too long or may not be looked at."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def find_pictures(root: Path) -> dict[str, list[Path]]:
    """Picture files by sub-type, sub-types in the order of labels, files in natural order of their names.

    Hidden files and other suffixes are ignored. Raises `InputError` where there is no data set.
    """
    if not _is_folder(root):
        what = "not a folder" if os.path.lexists(root) else "no such folder"
        raise InputError(f"{root}: {what}; name a folder with one sub-folder of pictures per sub-type")
    entries = _visible(root)
    folders = [entry for entry in entries if _is_folder(entry)]
    if not folders:
        what = "its pictures lie in no sub-folder" if any(map(_is_picture, entries)) else "it holds no sub-folders"
        raise InputError(f"{root}: {what}; put the pictures into one sub-folder per sub-type")
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        name = _AUTHOR.get(folder.name.lower().replace("_", " "), folder.name)
        if name in groups:
            raise InputError(f"{folder}: a second folder of the sub-type {name}; join the two")
        groups[name] = [entry for entry in _visible(folder) if _is_picture(entry)]
        if not groups[name]:
            raise InputError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)}); add some or remove the folder")
    ours = [name for name in bridges.SUBTYPES if name in groups]
    return {name: groups[name] for name in [*ours, *(name for name in groups if name not in ours)]}


def find_loose_pictures(root: Path) -> list[Path]:
    """Picture files that lie in `root` itself, in natural order, where none of its sub-folders holds any; else []."""
    if not _is_folder(root):
        return []
    entries = _visible(root)
    if any(_is_picture(inner) for entry in entries if _is_folder(entry) for inner in _visible(entry)):
        return []
    return [entry for entry in entries if _is_picture(entry)]


def _grey(image: Image.Image) -> np.ndarray:
    """Any mode of Pillow to float32 grey [h, w] in [0, 255]; transparent parts take the colour that sets ink off."""
    if image.mode.startswith(("I", "F")):
        deep = np.nan_to_num(np.asarray(image, np.float32))
        top = float(deep.max())
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        return np.clip(deep * (255 / next((full for full in ranges if top <= full), top)), 0, 255)
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"), np.float32)
    pixels = image.convert("RGBA")
    opaque = np.asarray(pixels.getchannel("A"), np.float32) / 255
    grey = np.asarray(pixels.convert("RGB").convert("L"), np.float32)
    if np.median(opaque) > 0.5:  # the background itself is opaque: what is clear in it is nothing special
        return grey * opaque + np.median(grey) * (1 - opaque)
    ink = float((grey * opaque).sum() / max(opaque.sum(), 1e-6))
    return grey * opaque + (255 if ink < 128 else 0) * (1 - opaque)


def _resized(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """Float32 [h, w] to uint8 [height, width]: area averages downward, Lanczos with antialiasing otherwise."""
    if height <= grey.shape[0] and width <= grey.shape[1]:
        return raster.area_average(np.rint(grey).astype(np.uint8), height, width)
    resized = Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS)
    return np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)


def _decoded(path: Path) -> np.ndarray:
    """Grey values of the first frame of a picture file, float32 [h, w] in [0, 255]."""
    return _grey(open_image(path))


def open_image(path: Path) -> Image.Image:
    """A picture file, decoded, as `read_picture` takes it; raises an `InputError` that names the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise InputError(f"{path}: not a file; replace or remove it")
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path}: more than {MAX_PIXELS:,} pixels; make the picture smaller or remove it") from None
    except MemoryError:
        raise InputError(f"{path}: too large for the memory of this machine; make the picture smaller") from None
    except OSError as error:
        if error.errno is not None:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its rights") from None
        raise _broken(path) from None
    except Exception:  # what Pillow's decoders raise on damaged files has no common kind
        raise _broken(path) from None


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """A picture file as uint8 [height, width], bright bridge on black.

    PNG, JPEG, BMP or TIFF; 1-bit, 8- or 16-bit grey, RGB, RGBA, palette and what else Pillow turns into grey; the
    first frame of several. A picture whose median is bright is taken for dark ink on a bright background and
    inverted. Other proportions are squeezed. Raises `InputError` on a file that is not such a picture, or has more
    than `MAX_PIXELS` pixels.
    """
    try:
        grey = _decoded(path)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: too large for the memory of this machine; make the picture smaller") from None
    except Exception:  # a picture that decodes, but not to grey
        raise _broken(path) from None
    return _resized(255 - grey if np.median(grey) > 127.5 else grey, height, width)


def _broken(path: Path) -> InputError:
    if path.stat().st_size == 0:
        return InputError(f"{path}: an empty file (zero bytes); replace or remove it")
    return InputError(f"{path}: not a whole PNG, JPEG, BMP or TIFF picture; replace or remove it")


def read_pictures(paths: Sequence[Path], height: int, width: int, progress: bool = False) -> np.ndarray:
    """`read_picture` of many files on all cores: uint8 [len(paths), height, width]. Raises the first `InputError`."""
    images = np.empty((len(paths), height, width), np.uint8)
    with warnings.catch_warnings():  # Pillow's about odd metadata and size; what matters is checked above
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16))
        try:
            read = pool.map(lambda path: read_picture(path, height, width), paths)
            for index, image in enumerate(tqdm(read, "reading", len(paths), unit="picture", disable=not progress)):
                images[index] = image
        finally:
            pool.shutdown(cancel_futures=True)
    return images


def listed_bases(root: Path) -> dict[str, int] | None:
    """The base index of every file ("sub-type/name.png") by the dataset.json in `root`; None where there is none."""
    path = root / LISTING
    try:
        if not path.is_file():
            return None
        listing = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(listing, dict) and "base" in listing):
            return None  # somebody else's
        bases = {str(name): int(base) for name, base in listing["base"].items()}
        return {name: int(np.int32(base)) for name, base in bases.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"{path}: damaged; make the data set again, or delete this file") from None


def base_of(file: Path, root: Path, listed: Mapping[str, int]) -> int:
    """The listed base index of `file`; raises `InputError` where it is not listed."""
    name = file.relative_to(root).as_posix()
    if name not in listed:
        raise InputError(f"{file}: not listed in {root / LISTING}; remove the picture, or delete that list")
    return listed[name]


def write_pictures(root: Path, named: Iterable[tuple[str, np.ndarray]], total: int, progress: bool = False) -> None:
    """Write uint8 [H, W] pictures as 8-bit grey PNG to `root`/name; the sub-folders must exist."""

    def write(item: tuple[str, np.ndarray]) -> None:
        Image.fromarray(item[1]).save(root / item[0], compress_level=1)

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        for _ in tqdm(pool.map(write, named), "writing", total, unit="picture", disable=not progress):
            pass


def write_listing(root: Path, listing: Mapping[str, object]) -> None:
    """Write dataset.json whole or not at all."""
    write_atomically(root / LISTING, json.dumps(listing, indent=1) + "\n")

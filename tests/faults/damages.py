"""Damaged checkpoints: every one is noticed and named, and the one before is used."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bridge_ebm import checkpoint, runs
from bridge_ebm.errors import InputError
from faults import tiny

Damage = Callable[[Path], None]


def run(count: int, folder: Path) -> dict[str, Any]:
    """Damage the newest of two checkpoints in `count` ways (all there are, if that is fewer)."""
    chosen, whole = tiny.settings(save_every=2), folder / "damages"
    with tiny.compiled_once():
        tiny.train(whole, 4, chosen)
    classes = len(tiny.dataset().subtypes)
    shutil.copytree(whole, folder / "before")
    shutil.rmtree(folder / "before" / checkpoint.FOLDER / "4")
    before = runs.continue_state(chosen, folder / "before", classes)
    failures: list[str] = []
    cases = list(_cases(whole / checkpoint.FOLDER / "4"))
    cases = cases[:: max(1, len(cases) // count)][:count]
    for number, (name, damage) in enumerate(cases):
        workdir = folder / f"damaged_{number}"
        shutil.copytree(whole, workdir)
        damage(workdir / checkpoint.FOLDER / "4")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            state = runs.continue_state(chosen, workdir, classes)
        named = any(f"{checkpoint.FOLDER}/4" in str(warning.message) for warning in told)
        if not tiny.same(state, before) or not (named or "absent" in name):
            failures.append(name)
        shutil.rmtree(workdir)
    failures += _both_damaged(whole, folder / "both", chosen, classes)
    return {"cases": len(cases) + 1, "failures": failures, "passed": not failures}


def _both_damaged(whole: Path, workdir: Path, chosen: Any, classes: int) -> list[str]:
    """Where no checkpoint is whole, the training does not start from nothing, but says so."""
    shutil.copytree(whole, workdir)
    for step in checkpoint.steps(workdir):
        (workdir / checkpoint.FOLDER / str(step) / checkpoint.CHECKSUMS).write_text("{}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs.continue_state(chosen, workdir, classes)
    except InputError as error:
        return [] if "\n" not in str(error) else ["both damaged: several lines"]
    return ["both damaged: not noticed"]


def _cases(newest: Path) -> Iterator[tuple[str, Damage]]:
    """Every kind of damage to every file, and to the folder."""
    for path in sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file()):
        for how, damage in _TO_FILES.items():
            yield f"{path}: {how}", lambda folder, path=path, damage=damage: damage(folder / path)
    yield from _TO_FOLDERS.items()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _parts_swapped(folder: Path) -> None:
    shutil.rmtree(folder / "training")
    shutil.copytree(folder.with_name("2") / "training", folder / "training")


_TO_FILES: dict[str, Damage] = {
    "missing": Path.unlink,
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "empty": lambda path: path.write_bytes(b"") and None,
    "a bit flipped": _flip,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)) and None,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0") and None,
    "a link to itself": _link_to_itself,
    "a folder": _folder_instead,
}
_TO_FOLDERS: dict[str, Damage] = {
    "an empty folder": _emptied,
    "a part of another checkpoint": _parts_swapped,
    "a part missing": lambda folder: shutil.rmtree(folder / "training"),
    "checksums of nothing": lambda folder: (folder / checkpoint.CHECKSUMS).write_text("{}") and None,
    "checksums that nest": lambda folder: (folder / checkpoint.CHECKSUMS).write_text("[" * 100_000) and None,
    "checksums that lead out": lambda folder: (
        (folder / checkpoint.CHECKSUMS).write_text(
            '{"../../../settings.json": [0, 0], "model/a": [0, 0], "training/a": [0, 0]}'
        )
        and None
    ),
    "absent, only its debris": lambda folder: folder.rename(folder.with_name("4.partial")) and None,
}

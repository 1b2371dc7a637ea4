"""Orbax checkpoints of pytrees: `DIR/checkpoints/<step>/`, each complete or absent.

Beside its data lie the checksums of all its files, so that damage is noticed before anything is read from it. Data and
checksums are written to a folder of another name, which gets its own when everything is there: a kill, or a full disk,
at any moment leaves the checkpoints as they were, and a folder that nobody reads and the next training removes.
A checkpoint holds two parts: `model` (what a user of the model needs) and `training` (optimiser and replay buffer,
100 times larger), so that a model can be loaded without the rest.
"""

import errno
import json
import re
import shutil
import warnings
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bridge_ebm import processes
from bridge_ebm.errors import InputError

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
# What the system says of a file that is not as it was written. Anything else (too many open files, no memory, no
# rights, a network that is away) may pass, and must not cost a checkpoint that is whole.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_DEBRIS = re.compile(r"\d+\.(partial|old|orbax-checkpoint-tmp).*")


class DamagedCheckpoint(InputError):
    """A checkpoint whose files are not what was written; the one before may be whole."""


def save(workdir: Path, step: int, parts: dict[str, Any]) -> None:
    """Write the named pytrees of jax arrays as checkpoint `step`; a step that is already there is left alone.

    Every process of a training calls it. Raises an `InputError` that names the folder if it cannot be written.
    """
    folder = (workdir / FOLDER / str(step)).absolute()
    if folder.exists():
        return
    partial = folder.with_name(f"{step}.partial")
    try:
        folder.parent.mkdir(exist_ok=True)
        if processes.is_first():  # where no folder can be made, Orbax would wait minutes for it
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            partial.rmdir()
        ocp.save_checkpointables(partial, parts, overwrite=True)
        if processes.is_first():
            # Markers of Orbax, read by nobody: the machine's path (models are shared), and an empty file.
            for marker in [*partial.rglob("commit_success.txt"), *partial.glob("orbax.checkpoint")]:
                marker.write_text("complete\n", encoding="utf-8")
            _write_checksums(partial)
            partial.rename(folder)
    except Exception as error:  # Orbax, TensorStore and the file system each raise their own.
        if processes.lost(error):
            raise
        _clear_debris(folder.parent)  # it takes the room that is missing
        raise InputError(
            f"{folder}: this checkpoint could not be written ({_reason(error)}); those before are intact; make room "
            "there, and run the same command again"
        ) from error


def prune(workdir: Path, keep: Collection[int]) -> None:
    """Remove all checkpoints but those of the updates in `keep`."""
    for step in steps(workdir):
        if step not in keep:
            _remove(workdir / FOLDER / str(step))


def clear_debris(workdir: Path) -> None:
    """Remove what saves and removals that were cut short have left; no other training may run in `workdir`."""
    _clear_debris(workdir / FOLDER)


def _clear_debris(folder: Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else []:
        if _DEBRIS.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def _remove(folder: Path) -> None:
    """A checkpoint goes as it came, in one step: half a one must not pass for one that is there."""
    old = folder.with_name(folder.name + ".old")
    folder.rename(old)
    shutil.rmtree(old)


def newest_step(workdir: Path) -> int | None:
    """The newest complete checkpoint of a work directory or model directory, None if there is none. Writes nothing."""
    return max(steps(workdir), default=None)


def restore_newest(workdir: Path, parts: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is not damaged: its step and its parts as `restore` gives them; None if there is no
    checkpoint. Warns of each damaged one that is passed over; raises an `InputError` if all are, or if one that is not
    damaged cannot be loaded.
    """
    damaged: DamagedCheckpoint | None = None
    for step in sorted(steps(workdir), reverse=True):
        if damaged is not None:
            warnings.warn(f"{damaged}; using the one before", stacklevel=2)
        try:
            return step, restore(workdir, step, parts)
        except DamagedCheckpoint as error:
            damaged = error
    if damaged is not None:
        raise DamagedCheckpoint(f"{damaged}; no whole one is left there: restore the folder, or train anew") from None
    return None


def set_aside_after(workdir: Path, step: int, why: str = "damaged") -> list[int]:
    """Rename the checkpoints after `step` to NAME.why, so that the training can write them again; returns them."""
    later = sorted(found for found in steps(workdir) if found > step)
    for found in later:
        folder = workdir / FOLDER / str(found)
        aside = folder.with_name(f"{found}.{why}")
        if aside.is_dir():
            shutil.rmtree(aside)
        folder.rename(aside)
    return later


def damages(workdir: Path) -> dict[int, str]:
    """What is wrong with the files of each damaged checkpoint. Reads every byte, and writes nothing."""
    found = {}
    for step in sorted(steps(workdir)):
        folder = (workdir / FOLDER / str(step)).absolute()
        try:
            _check_files(folder, ())
            _listed(folder, tuple(entry.name for entry in folder.iterdir() if entry.is_dir()))
        except (InputError, OSError) as error:
            if folder.is_dir():  # a training that runs meanwhile removes whole ones
                found[step] = str(error)
    return found


def written_without(workdir: Path, part: str) -> bool:
    """Whether there are checkpoints, and this part was saved in none of them. Writes nothing."""
    folders = [workdir / FOLDER / str(step) for step in steps(workdir)]
    return bool(folders) and not any(_may_hold(folder, part) for folder in folders)


def _may_hold(folder: Path, part: str) -> bool:
    """Whether a part belongs to a checkpoint, or, where damage leaves that open, may."""
    try:
        return (folder / part).exists() or any(name.split("/")[0] == part for name in _listed(folder, ()))
    except InputError:
        return True


def steps(workdir: Path) -> list[int]:
    """The updates of all complete checkpoints, in no order."""
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.is_dir() and _is_step(entry.name)]


def _is_step(name: str) -> bool:
    """Whether a folder has the name of a checkpoint; "007" or Arabic digits are somebody else's."""
    return name.isascii() and name.isdecimal() and str(int(name[:18])) == name


def restore(workdir: Path, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the named parts of checkpoint `step`, with the structure, shapes, types and shardings of `parts`.

    `parts` holds pytrees of arrays or of `jax.ShapeDtypeStruct`. Raises a `DamagedCheckpoint` that names the folder
    if its files are not what was written, an `InputError` if it belongs to another network or cannot be loaded now.
    """
    folder = (workdir / FOLDER / str(step)).absolute()
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here), parts)
    _check_files(folder, tuple(parts))
    try:
        found = ocp.checkpointables_metadata(folder).metadata
        for name, part in wanted.items():
            _check_same(folder, name, part, found[name])
        return dict(ocp.load_checkpointables(folder, wanted))
    except InputError:
        raise
    except Exception as error:  # Orbax, TensorStore and the file system each raise their own.
        raise InputError(
            f"{folder}: this checkpoint cannot be loaded ({_reason(error)}), though its files are intact; free memory, "
            "check the disk, and run the same command again"
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of what caused an error, or its kind where it has no words."""
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]


def _write_checksums(folder: Path) -> None:
    """Length and CRC-32 of every file of a checkpoint."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _checksum(path) for path in paths}
    (folder / CHECKSUMS).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def _checksum(path: Path) -> list[int]:
    length, crc = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            length, crc = length + len(block), zlib.crc32(block, crc)
    return [length, crc]


def _check_files(folder: Path, parts: tuple[str, ...]) -> None:
    """Raise a `DamagedCheckpoint` that names the first file of these parts (of all, if there are none) that is missing
    or changed.
    """
    needed = _listed(folder, parts)
    try:
        wrong = [name for name, sums in needed.items() if _checksum(folder / name) != sums]
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    if wrong:
        raise DamagedCheckpoint(f"{folder}: damaged ({wrong[0]} is not what was saved)")


def _listed(folder: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """The checksums of the files of these parts (of all, if there are none), and of those of no part."""
    try:
        listed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        first = {name: name.split("/")[0] for name in listed}
        chosen = {name: listed[name] for name in listed if not parts or first[name] in parts or first[name] == name}
        absent = [part for part in parts if not any(name.startswith(part + "/") for name in chosen)]
        outside = [name for name in chosen if name.startswith("/") or ".." in name.split("/")]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(folder, error) from None
    if absent or outside:
        wrong = f"{CHECKSUMS} lists no file of {absent[0]}" if absent else f"{CHECKSUMS} names {outside[0]!r}"
        raise DamagedCheckpoint(f"{folder}: damaged ({wrong})")
    return chosen


def _unreadable(folder: Path, error: Exception) -> InputError:
    """What to raise for an error that reading the files of a checkpoint has met."""
    if not isinstance(error, OSError) or error.errno in _DAMAGE:
        return DamagedCheckpoint(f"{folder}: damaged ({error})")
    return InputError(
        f"{folder}: this checkpoint cannot be read ({error}); check rights and disk, and run the same command again, "
        "or move this folder away to use the checkpoint before"
    )


def _check_same(folder: Path, name: str, wanted: Any, found: Any) -> None:
    """Orbax casts a wrong type silently and reports a wrong structure opaquely: compare first, and say it in one
    line.
    """

    def shapes(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {_plain_path(path): f"{leaf.dtype}{tuple(leaf.shape)}" for path, leaf in leaves}

    want, have = shapes(wanted), shapes(found)
    for path in sorted(want.keys() | have.keys()):
        if want.get(path) != have.get(path):
            raise InputError(
                f"{folder}: another network wrote this checkpoint ({name}/{path} is {have.get(path, 'absent')}, "
                f"expected {want.get(path, 'absent')}); use a fresh --workdir"
            )


def _plain_path(path: tuple[Any, ...]) -> str:
    """A leaf's place as 'a/b/0', whatever containers lead to it (Orbax stores named tuples as dictionaries)."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)

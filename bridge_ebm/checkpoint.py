"""Orbax checkpoints of pytrees: `DIR/checkpoints/<step>/`, each complete or absent.

Beside its data lie the checksums of all its files, so that damage is noticed before anything is read from it.
A checkpoint holds two parts: `model` (what a user of the model needs) and `training` (optimiser and replay buffer,
100 times larger), so that a model can be loaded without the rest.
"""

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bridge_ebm.errors import InputError

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"


class DamagedCheckpoint(InputError):
    """A checkpoint whose files are not what was written; the one before may be whole."""


def open_folder(workdir: Path, keep: int | None = None) -> ocp.training.Checkpointer:
    """The checkpoints of a work directory, for use in a `with` block; `keep` is how many of the newest stay on disk."""
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
        (workdir / FOLDER).absolute(),
        preservation_policy=policies.LatestN(keep) if keep else policies.PreserveAll(),
        cleanup_tmp_directories=True,
    )


def save(checkpointer: ocp.training.Checkpointer, step: int, parts: dict[str, Any]) -> None:
    """Write the named pytrees of jax arrays as checkpoint `step`; a step that is already there is left alone."""
    if checkpointer.latest is None or checkpointer.latest.step != step:
        # `force`: the default policy may skip a save that comes soon after another.
        checkpointer.save_checkpointables(step, parts, force=True)
        folder = Path(checkpointer.directory) / str(step)
        for note in folder.rglob("commit_success.txt"):  # Orbax writes the machine's path there; models are shared
            note.write_text("complete\n", encoding="utf-8")
        _write_checksums(folder)


def newest_step(workdir: Path) -> int | None:
    """The newest complete checkpoint of a work directory or model directory, None if there is none. Writes nothing."""
    return max(_steps(workdir), default=None)


def restore_newest(workdir: Path, parts: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is not damaged: its step and its parts as `restore` gives them; None if there is no
    checkpoint. Warns of each damaged one that is passed over; raises an `InputError` if all are.
    """
    damaged: DamagedCheckpoint | None = None
    for step in sorted(_steps(workdir), reverse=True):
        try:
            return step, restore(workdir, step, parts)
        except DamagedCheckpoint as error:
            warnings.warn(str(error), stacklevel=2)
            damaged = error
    if damaged is not None:
        raise damaged
    return None


def set_aside_after(workdir: Path, step: int) -> None:
    """Rename the checkpoints after `step` to NAME.damaged, so that the training can write them again."""
    for later in _steps(workdir):
        if later > step:
            folder = workdir / FOLDER / str(later)
            folder.rename(folder.with_name(f"{later}.damaged"))


def _steps(workdir: Path) -> list[int]:
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]


def restore(workdir: Path, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the named parts of checkpoint `step`, with the structure, shapes, types and shardings of `parts`.

    `parts` holds pytrees of arrays or of `jax.ShapeDtypeStruct`. Raises a `DamagedCheckpoint` that names the folder
    if its files are not what was written, an `InputError` if it belongs to another network.
    """
    folder = (workdir / FOLDER / str(step)).absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        raise DamagedCheckpoint(f"{folder}: cannot read this checkpoint ({reason}); using the one before") from error


def _write_checksums(folder: Path) -> None:
    """Length and CRC-32 of every file of a checkpoint. A kill before this leaves a whole checkpoint without them."""
    files = {str(path.relative_to(folder)): _checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    partial = folder / (CHECKSUMS + ".partial")
    partial.write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / CHECKSUMS)


def _checksum(path: Path) -> list[int]:
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]


def _check_files(folder: Path, parts: tuple[str, ...]) -> None:
    """Raise a `DamagedCheckpoint` that names the first file of these parts that is missing or changed."""
    path = folder / CHECKSUMS
    if not path.exists():
        return
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        needed = {name: sums for name, sums in listed.items() if "/" not in name or name.startswith(parts)}
        wrong = [name for name, sums in needed.items() if _checksum(folder / name) != sums]
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder}: damaged ({error}); using the checkpoint before") from None
    if wrong:
        raise DamagedCheckpoint(f"{folder}: damaged ({wrong[0]} is not what was saved); using the checkpoint before")


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

"""Orbax checkpoints of pytrees: `DIR/checkpoints/<step>/`, each complete or absent.

A checkpoint holds two parts: `model` (what a user of the model needs) and `training` (optimiser and replay buffer,
100 times larger), so that a model can be loaded without the rest.
"""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bridge_ebm.errors import InputError

FOLDER = "checkpoints"


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


def newest_step(workdir: Path) -> int | None:
    """The newest complete checkpoint of a work directory or model directory, None if there is none. Writes nothing."""
    folder = workdir / FOLDER
    if not folder.is_dir():
        return None
    steps = [int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    return max(steps, default=None)


def restore(workdir: Path, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the named parts of checkpoint `step`, with the structure, shapes, types and shardings of `parts`.

    `parts` holds pytrees of arrays or of `jax.ShapeDtypeStruct`. Raises an `InputError` that names the folder if
    the checkpoint is damaged or belongs to another network.
    """
    folder = (workdir / FOLDER / str(step)).absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here), parts)
    try:
        found = ocp.checkpointables_metadata(folder).metadata
        for name, part in wanted.items():
            _check_same(folder, name, part, found[name])
        return dict(ocp.load_checkpointables(folder, wanted))
    except InputError:
        raise
    except Exception as error:  # Orbax, TensorStore and the file system each raise their own.
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        raise InputError(
            f"{folder}: cannot read this checkpoint ({reason}); delete it to use the one before"
        ) from error


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

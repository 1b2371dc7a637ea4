"""A disk that takes no more, at every write of a training: one line, the checkpoints before intact, and the same end.

Every file that a training opens for writing is led to /dev/full once (what it writes fails as on a full disk); folders
and names are refused as on a disk that is read-only; and a limit on the size of files, which the kernel keeps, reaches
what Orbax writes outside of Python.
"""

import builtins
import errno
import io
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from bridge_ebm import checkpoint, runs
from bridge_ebm.errors import InputError
from faults import tiny

_UPDATES = 6
_CHANGES = ("mkdir", "rename", "replace", "rmdir", "unlink")


def run(count: int, folder: Path) -> dict[str, Any]:
    """Make `count` writes fail, spread over all there are (all, if `count` is larger)."""
    chosen, whole = tiny.settings(save_every=2), folder / "disk"
    with tiny.compiled_once():
        with _failing(whole, 10**9, "full") as writes:
            tiny.train(whole, _UPDATES, chosen)
        with _failing(folder / "other", 10**9, "read-only") as changes:
            tiny.train(folder / "other", _UPDATES, chosen)
        sizes = sorted({path.stat().st_size for path in whole.rglob("*") if path.is_file()})
        cases = [("full", n) for n in range(len(writes))] + [("read-only", n) for n in range(len(changes))]
        cases += [("limit", size // 2) for size in sizes] + [("limit", size - 1) for size in sizes if size]
        cases = cases[:: max(1, len(cases) // count)][:count]
        failures = []
        for number, (kind, at) in enumerate(cases):
            what = _one(kind, at, folder / f"case_{number}", whole, chosen)
            failures += [f"{kind} {at}: {what}"] if what else []
            shutil.rmtree(folder / f"case_{number}")
    kinds = {kind: sum(case[0] == kind for case in cases) for kind in ("full", "read-only", "limit")}
    return {"cases": len(cases), **kinds, "failures": failures, "passed": not failures}


def _one(kind: str, at: int, workdir: Path, whole: Path, chosen: Any) -> str | None:
    """Train over a disk that fails, then over a good one; what is wrong with that, None if nothing is."""
    workdir.mkdir()
    try:
        with _limited(at) if kind == "limit" else _failing(workdir, at, kind):
            tiny.train(workdir, _UPDATES, chosen)
    except InputError as error:
        if "\n" in str(error) or str(workdir) not in str(error):
            return f"the message is {error}"
    except OSError as error:
        # Pictures are the caller's; the command line turns what he meets before the training into one line.
        if "samples" not in str(error.filename) and workdir != Path(str(error.filename)):
            return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    saved = checkpoint.newest_step(workdir)
    if saved is not None:
        state = runs.continue_state(chosen, workdir, len(tiny.dataset().subtypes))
        if int(state.step) != saved:
            return f"checkpoint {saved} is not intact"
    tiny.train(workdir, _UPDATES, chosen)
    found = tiny.difference(workdir, whole, chosen)
    return f"{', '.join(found)} differ" if found else None


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Within the block, no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def _failing(folder: Path, at: int, kind: str) -> Iterator[list[str]]:
    """Within the block, write number `at` below `folder`, and all that follow, fail; yields the list of writes."""
    seen: list[str] = []
    opened = builtins.open

    def counted(path: Any) -> bool:
        inside = isinstance(path, str | os.PathLike) and Path(os.fspath(path)).is_relative_to(folder.absolute())
        if inside:
            seen.append(os.fspath(path))
        return inside and len(seen) > at

    def open_or_fail(path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if set(mode) & set("wax+") and counted(path):
            if kind == "read-only":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
            return opened("/dev/full", mode.replace("x", "w"), *args, **named)
        return opened(path, mode, *args, **named)

    def change_or_fail(name: str) -> Any:
        change = getattr(os, name)

        def changed(path: Any, *args: Any, **named: Any) -> Any:
            if counted(path):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
            return change(path, *args, **named)

        return changed

    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(builtins, "open", open_or_fail))
        patched.enter_context(mock.patch.object(io, "open", open_or_fail))
        for name in _CHANGES if kind == "read-only" else ():
            patched.enter_context(mock.patch.object(os, name, change_or_fail(name)))
        yield seen

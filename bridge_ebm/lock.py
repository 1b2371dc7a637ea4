"""One training at a time in a work directory, and one discovery in its folder: a lock that the operating system drops
with its process, however it ends.

The lock is `flock` on a file in the folder, which any POSIX system has; the text in it only says whose it is, so what a
killed process leaves behind stops nobody. On network file systems the lock reaches as far as the mount's own locking:
NFS 4 keeps it between machines, NFS mounted with `nolock` or `local_lock` only within one, and where there is no
locking at all (many cloud buckets) `held` warns and goes on.
"""

import fcntl
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bridge_ebm.errors import InputError

LOCK_FILE = "training.lock"
_PROBES = 5  # `owner` holds the lock for an instant; a training that meets it tries again
_BETWEEN = 0.05  # seconds


class Work(NamedTuple):
    """What is done one at a time: its `file`, the `flag` that names its folder, and its words in messages."""

    file: str
    flag: str
    name: str
    verb: str


TRAINING = Work(LOCK_FILE, "--workdir", "training", "trains")
DISCOVERY = Work("discover.lock", "--out", "discovery", "makes designs")


class Owner(NamedTuple):
    """Who holds a lock: process number, machine, and since when (local time)."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def held(folder: Path, work: Work = TRAINING) -> Iterator[None]:
    """Hold the folder within the block; raises an `InputError` that names the process that has it already.

    Where several processes work together one holds it for all.
    """
    path = folder / work.file
    file = _locked(path, work)
    try:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}))
        file.flush()
        yield
    finally:
        with suppress(OSError):  # a disk that can no longer be written: what stays behind stops nobody
            path.unlink(missing_ok=True)  # before the lock goes: nobody can hold this file any more
        file.close()


def owner(workdir: Path) -> Owner | None:
    """Who trains in a work directory just now, None if nobody does. Writes nothing."""
    try:
        with (workdir / LOCK_FILE).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named(file.read())
    except OSError:
        pass  # no such file, or a file system without locks
    return None


def _locked(path: Path, work: Work) -> TextIO:
    """The lock file, opened and locked."""
    for attempt in range(_PROBES):
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            found = _named(file.read())
            file.close()
            if attempt + 1 == _PROBES:
                raise InputError(
                    f"{work.flag}={path.parent}: {found} {work.verb} there; wait for it, stop it, or use a fresh "
                    f"{work.flag}"
                ) from None
            time.sleep(_BETWEEN)
            continue
        except OSError as error:
            warnings.warn(
                f"{path}: this file system has no locks ({error.strerror}); start no second {work.name} in this folder",
                stacklevel=4,
            )
            return file
        if _is_still(file, path):
            return file
        file.close()  # its last owner removed it between our opening and our locking it
    raise InputError(f"{work.flag}={path.parent}: one {work.name} after another starts and ends there; try again")


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _named(text: str) -> Owner:
    try:
        record: dict[str, Any] = json.loads(text)
        return Owner(int(record["pid"]), str(record["host"]), str(record["since"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Owner(0, "an unknown machine", "a moment ago")  # between locking the file and writing into it

"""SIGKILL at random moments of a training that is started again and again: nothing may be lost, or differ."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge_ebm import checkpoint
from bridge_ebm.workdir import METRICS_FILE, read_metrics
from faults import tiny

MOMENTS = ("start", "update", "update", "save", "save", "picture")
_PATIENCE = 300.0  # seconds for a training to get somewhere, on a machine that is busy
_UPDATES_A_LIFE = 25


def run(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill `count` times; returns how often at which moment, and what went wrong.

    Every life of the training is a process of its own, forked from this one before JAX has started in it, so that
    what the start of Python costs is paid once.
    """
    draw = random.Random(seed)
    figures: dict[str, Any] = {"kills": 0, "failed_starts": 0, "differences": [], "lost_most": 0, "lost_too_many": 0}
    figures |= {f"in_{moment}": 0 for moment in sorted(set(MOMENTS))} | {"trainings": 0, "inside_a_save": 0}
    updates = _UPDATES_A_LIFE * min(count, 25) + 20
    whole = folder / "never_killed"
    figures["failed_starts"] += _wait(_start(whole, updates)) != 0
    while figures["kills"] < count and not figures["failed_starts"]:
        workdir = folder / f"killed_{figures['trainings']}"
        figures["trainings"] += 1
        _one_training(workdir, updates, count, draw, figures)
        figures["failed_starts"] += _wait(_start(workdir, updates)) != 0
    for number in range(figures["trainings"]):
        found = tiny.difference(folder / f"killed_{number}", whole, tiny.settings())
        figures["differences"] += [f"training {number}: {what}" for what in found]
    figures["last_words"] = (folder / "stderr.txt").read_text()[-300:] if figures["failed_starts"] else ""
    figures["passed"] = not (figures["failed_starts"] or figures["differences"] or figures["lost_too_many"])
    return figures


def _one_training(workdir: Path, updates: int, count: int, draw: random.Random, figures: dict[str, Any]) -> None:
    """Kill one training until it is done, or enough have been killed."""
    while figures["kills"] < count and not figures["failed_starts"]:
        moment = draw.choice(MOMENTS)
        process = _start(workdir, updates)
        if not _await(process, workdir, moment, draw):
            figures["failed_starts"] += _wait(process) != 0
            return
        inside = _saving(workdir)
        os.kill(process, signal.SIGKILL)
        _wait(process)
        figures["kills"] += 1
        figures[f"in_{moment}"] += 1
        figures["inside_a_save"] += inside
        logged = max((row["step"] for row in read_metrics(workdir)), default=0)
        lost = logged - (checkpoint.newest_step(workdir) or 0)
        figures["lost_most"] = max(figures["lost_most"], lost)
        # One interval since the last save, and one during which a save that has begun is still being written.
        figures["lost_too_many"] += lost > 2 * tiny.SAVE_EVERY


def _start(workdir: Path, updates: int) -> int:
    """A training in a process of its own; returns its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        sys.stderr = (workdir.parent / "stderr.txt").open("a")
        tiny.train(workdir, updates, tiny.settings())
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _ended(process: int) -> bool:
    """Whether a process is over; leaves its status to `_wait`."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _await(process: int, workdir: Path, moment: str, draw: random.Random) -> bool:
    """Wait for a random moment of a kind; False if the process ends before."""
    log, pictures = workdir / METRICS_FILE, workdir / "samples"
    before, drawn = _size(log), _entries(pictures)
    if moment == "start":
        return _until(process, lambda: False, draw.uniform(0.0, 3.0)) or not _ended(process)
    if not _until(process, lambda: _size(log) not in (before, 0), _PATIENCE):
        return False
    if moment == "save" and not _until(process, lambda: _saving(workdir), _PATIENCE):
        return False
    if moment == "picture" and not _until(process, lambda: _entries(pictures) != drawn, _PATIENCE):
        return False
    longest = {"save": 0.15, "picture": 0.01, "update": 0.5}[moment]
    _until(process, lambda: False, draw.uniform(0.0, longest))
    return not _ended(process)


def _until(process: int, condition: Callable[[], bool], patience: float) -> bool:
    """Wait for `condition`; False if the process ends, or patience does."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if condition():
            return True
        if _ended(process):
            return False
        time.sleep(0.001)
    return False


def _saving(workdir: Path) -> bool:
    """Whether a save is being written just now."""
    folder = workdir / checkpoint.FOLDER
    return any("partial" in name for name in _entries(folder))


def _entries(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:
        return set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

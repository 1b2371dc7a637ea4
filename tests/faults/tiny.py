"""The smallest training that has everything: a save every few updates, pictures, a replay buffer."""

import functools
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from bridge_ebm import data, plotting, replay, runs
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import TrainState
from bridge_ebm.train import make_train_step
from bridge_ebm.workdir import read_metrics

SAVE_EVERY = 10


def settings(save_every: int = SAVE_EVERY) -> TrainSettings:
    """16 x 32 pixels, 8 chains of one step; updates take milliseconds."""
    return TrainSettings(
        height=16,
        width=32,
        per_type=2,
        split="all",
        batch_size=8,
        buffer_size=24,
        langevin_steps=1,
        sample_steps=1,
        epochs=100_000,
        save_every=save_every,
    )


@functools.cache
def dataset() -> data.Dataset:
    """Two pictures of each sub-type."""
    return data.procedural(16, 32, per_type=2)


def train(workdir: Path, updates: int, chosen: TrainSettings) -> TrainState:
    """Train in `workdir` up to `updates`; every save has a picture."""
    workdir.mkdir(exist_ok=True)

    def draw(state: TrainState) -> None:
        (workdir / "samples").mkdir(exist_ok=True)
        page = plotting.sheet(np.asarray(replay.newest(state.buffer, np.arange(4))), columns=2)
        plotting.save_png(workdir / "samples" / f"step_{int(state.step):06d}.png", page)

    return runs.run_training(chosen, dataset(), workdir, updates, on_epoch=draw)


@functools.cache
def compiled() -> Any:
    """One compiled update for all trainings of this process."""
    return make_train_step(settings(), len(dataset().subtypes))


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within the block, trainings share one compiled update."""
    with mock.patch.object(runs, "make_train_step", lambda *_: compiled()):
        yield


def same(ours: Any, theirs: Any) -> bool:
    """Whether two pytrees hold the same bits."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def difference(ours: Path, theirs: Path, chosen: TrainSettings) -> list[str]:
    """In what two work directories of the same training differ: state, metrics but for timings, pictures."""
    found = []
    if not same(*(runs.continue_state(chosen, folder, len(dataset().subtypes)) for folder in (ours, theirs))):
        found.append("state")
    rows = [
        [{name: value for name, value in row.items() if name != "images_per_second"} for row in read_metrics(folder)]
        for folder in (ours, theirs)
    ]
    if rows[0] != rows[1] or [row["step"] for row in rows[0]] != list(range(1, len(rows[0]) + 1)):
        found.append("metrics")
    drawn = [{path.name: path.read_bytes() for path in (folder / "samples").iterdir()} for folder in (ours, theirs)]
    if drawn[0] != drawn[1]:
        found.append("pictures")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, progress bars and warnings go nowhere."""
    with mock.patch.object(sys, "stderr", io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

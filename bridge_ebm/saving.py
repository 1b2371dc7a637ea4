"""Saving beside the updates, and which checkpoints stay: the newest two, and the best by a named measure."""

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from bridge_ebm import checkpoint
from bridge_ebm.settings import TrainSettings
from bridge_ebm.workdir import read_metrics

# The replay buffer makes a checkpoint of the paper's settings 300 MB.
KEEP_NEWEST = 2
SMOOTHED = 50  # updates over which the measure is a mean


class Saver:
    """Saves in a thread of its own; use it in a `with` block, which ends when the last save has.

    A save works on a copy, since the next update reuses the memory of the state. Where several processes train
    together saves are not taken aside: their hand-shakes would meet those of the updates.
    """

    def __init__(self, workdir: Path, settings: TrainSettings):
        self._workdir, self._settings = workdir, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._running: Future[None] | None = None

    def save(self, step: int, parts: dict[str, Any]) -> None:
        """Begin to save the named pytrees as checkpoint `step`, once the save before is done; raises its error."""
        self.wait()
        if jax.process_count() > 1:
            self._write(step, parts)
        else:
            self._running = self._thread.submit(self._write, step, jax.tree.map(jnp.copy, parts))

    def wait(self) -> None:
        """Wait for the save that runs; raises the `InputError` of one that failed."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _write(self, step: int, parts: dict[str, Any]) -> None:
        checkpoint.save(self._workdir, step, parts)
        if jax.process_index() == 0:
            kept = to_keep(self._settings, read_metrics(self._workdir), checkpoint.steps(self._workdir))
            checkpoint.prune(self._workdir, kept)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()


def to_keep(settings: TrainSettings, rows: Sequence[dict[str, Any]], steps: Collection[int]) -> set[int]:
    """Which of the checkpoints `steps` stay; `rows` are the objects of metrics.jsonl."""
    best = best_step(settings, rows, steps)
    return {*sorted(steps)[-KEEP_NEWEST:], *(() if best is None else (best,))}


def best_step(settings: TrainSettings, rows: Sequence[dict[str, Any]], steps: Collection[int]) -> int | None:
    """The best checkpoint by `measure`, the later of equals; None if none has a value.

    One of the finish counts as better than any before it: what the finish mends, the regression error does not see.
    """
    values = {step: measure(settings, rows, step) for step in steps}
    ranked = [(step <= settings.finish_after, value, -step) for step, value in values.items() if value is not None]
    return -min(ranked)[2] if ranked else None


def measure(settings: TrainSettings, rows: Sequence[dict[str, Any]], step: int) -> float | None:
    """How good the training was at update `step`: the lower, the better. A mean over the last `SMOOTHED` updates.

    Gradient regression: its error. The contrastive objective: the distance between the mean energies of real and fake
    pictures, from the second epoch on, for an energy that has learned nothing has no distance either.
    """
    lately = [row for row in rows if step - SMOOTHED < row["step"] <= step]
    if settings.objective != "contrastive":
        return _mean([row["regression"] for row in lately if row.get("regression") is not None])
    both = [row for row in lately if row.get("real") is not None and row.get("fake") is not None]
    learned = [row for row in both if row["epoch"] > 1]
    gap = _mean([row["real"] - row["fake"] for row in learned])
    return None if gap is None else abs(gap)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

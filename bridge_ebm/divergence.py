"""When a training has diverged, and how it goes on: back to the last good checkpoint, more gently.

The rule, in full. An update is trouble if

- the mean energy of real or fake pictures lies beyond `energy_bound`,
- in gradient regression: the two means are further apart than 1 per pixel, or the error is above 640 (ten times the
  square of the largest slope from noise to a picture),
- it is the `SKIPS`th of the last `WINDOW` updates that were not finite and therefore not applied, or
- a checkpoint is to be saved after it, and the state is not finite.

Then the training returns to its newest whole checkpoint (if it diverged again before it saved another: to the one
before) and goes on with half the learning rates and twice alpha, each time. After `MAX_ROLLBACKS` of that it stops.

Everything is a function of what lies in the work directory: rollbacks.json, metrics.jsonl and the checkpoints. A run
that is killed and continued takes the same path as one that is not; one that a signal stopped has a checkpoint more to
go back to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings

ROLLBACKS_FILE = "rollbacks.json"
MAX_ROLLBACKS = 3
SKIPS, WINDOW = 3, 20

_TIMES_REGULARISED = 200.0  # the regulariser holds the means at -1/(2 alpha) and 1/(2 alpha)
# Regression asks for slopes of at most 4 |picture - noise| <= 8 a pixel on paths from noise, so from noise to a picture
# the energy falls by less than 16 a pixel; its level is free, and moves.
_PER_PIXEL = 160.0
_GAP_PER_PIXEL = 1.0
_LARGEST_ERROR = 640.0


class Diverged(Exception):
    """An update was trouble: `step` says which, `reason` what."""

    def __init__(self, step: int, reason: str):
        super().__init__(f"update {step}: {reason}")
        self.step, self.reason = step, reason


class Rollback(NamedTuple):
    """A return from update `step` to the checkpoint of update `to` (0: the beginning)."""

    step: int
    to: int
    reason: str


def energy_bound(settings: TrainSettings) -> float:
    """The mean energy beyond which a training has diverged."""
    if settings.objective == "contrastive" and settings.alpha > 0:
        return _TIMES_REGULARISED / (2 * settings.alpha)
    return _PER_PIXEL * settings.height * settings.seen_width


def trouble(settings: TrainSettings, values: Mapping[str, float], skipped_lately: int) -> str | None:
    """What is wrong with an update that reports `values` after `skipped_lately` of the last `WINDOW` updates, itself
    included, were not applied; None if nothing is.
    """
    if skipped_lately >= SKIPS:
        return f"{skipped_lately} of the last {WINDOW} updates were not finite"
    bound = energy_bound(settings)
    for name in ("real", "fake"):
        if abs(values[name]) > bound:
            return f"the mean energy of {name} pictures is {values[name]:.4g}, beyond {bound:g}"
    if settings.objective == "contrastive":
        return None
    gap, most = values["real"] - values["fake"], _GAP_PER_PIXEL * settings.height * settings.seen_width
    if abs(gap) > most:
        return f"the energies of real and fake pictures are {gap:.4g} apart, more than {most:g}"
    if values["regression"] > _LARGEST_ERROR:
        return f"the regression error is {values['regression']:.4g}, above {_LARGEST_ERROR:g}"
    return None


def easing(rollbacks: Sequence[Rollback], step: int) -> float:
    """What update `step` multiplies its learning rate with, and divides alpha by: 1/2 for every rollback to a
    checkpoint before it.
    """
    return 0.5 ** sum(rollback.to < step for rollback in rollbacks)


def after(rollbacks: Sequence[Rollback], new: Rollback) -> list[Rollback]:
    """The list with one more. What goes on from an earlier checkpoint than before has all of them behind it."""
    return [old._replace(to=min(old.to, new.to)) for old in rollbacks] + [new]


def read_rollbacks(workdir: Path) -> list[Rollback]:
    """The rollbacks of a run in order; raises an `InputError` if their file is damaged."""
    path = workdir / ROLLBACKS_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Rollback(int(entry["step"]), int(entry["to"]), str(entry["reason"])) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read ({error}); restore it or use a fresh --workdir") from None


def rollbacks_text(rollbacks: Sequence[Rollback]) -> str:
    """What rollbacks.json holds."""
    return json.dumps([rollback._asdict() for rollback in rollbacks], indent=1) + "\n"


def explanation(step: int, reason: str, rollbacks: Sequence[Rollback]) -> str:
    """Why a run stops for good, in one line."""
    tried = f"{len(rollbacks)} times back to a good checkpoint with half the learning rate did not help"
    return (
        f"update {step}: the energies diverged ({reason}); {tried}; the last checkpoint is intact; "
        "start a fresh --workdir with a smaller --learning_rate or --norm_clip=1"
    )


def skipped_lately(skips: Sequence[int], step: int, rollbacks: Sequence[Rollback]) -> int:
    """How many of the updates `skips` lie in the last `WINDOW` up to `step`, and after the last rollback's return."""
    first = max(step - WINDOW, rollbacks[-1].to if rollbacks else 0)
    return sum(first < skip <= step for skip in skips)

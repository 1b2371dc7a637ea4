"""What a run's own records say about its health, in plain words: findings, each with what to change.

`diagnose` is a function of what `read_run` found in a work directory; neither writes anything, so both may run beside
the training.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bridge_ebm import checkpoint, divergence, events, guards, lock, replay, saving
from bridge_ebm.errors import InputError
from bridge_ebm.models import SETTINGS_FILE
from bridge_ebm.runs import continue_state
from bridge_ebm.settings import TrainSettings, from_dict
from bridge_ebm.workdir import METRICS_FILE, read_metrics

LATELY = 100  # logged updates that count as now

_LOOKED_AT = 64  # pictures of the replay buffer
_ALIKE = 0.02  # mean difference of a pixel below which two pictures show the same
_FEW_KINDS = 0.1  # collapse: fewer kinds of pictures than this share of those looked at
_EMPTY_SHARE = 0.25
_REPLACED_SHARE = 0.25
_STILL = 0.001  # movement of a pixel in an update that is nothing: an eighth of one grey level of 255
_SLOW = 0.02
_APART = 4.0  # energies are apart beyond this many times their natural gap
_RISE = 4.0  # drift: so many times the energies of the quarter of the run before
_STALLED_AFTER = 900.0  # seconds without a sign, or 30 times what a logged update takes


class Run(NamedTuple):
    """What a work directory tells. `pictures` float [N, H, W] are the newest of the replay buffer (None: there are
    none yet), `damaged` says what is wrong with checkpoints, `quiet` is the seconds since the last line of metrics.
    """

    settings: TrainSettings
    rows: Sequence[dict[str, Any]]
    happened: Sequence[dict[str, Any]]
    pictures: np.ndarray | None
    steps: Sequence[int]
    damaged: dict[int, str]
    owner: lock.Owner | None
    quiet: float


class Finding(NamedTuple):
    """Something wrong: its `kind` in a word or two, `what` was seen, and `change`, what to do about it."""

    kind: str
    what: str
    change: str


def read_run(workdir: Path) -> Run:
    """Read a work directory; raises an `InputError` if it holds no training. Writes nothing."""
    path = workdir / SETTINGS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings, classes = from_dict(record["training"], str(path)), len(record["model"]["subtypes"])
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"--workdir={workdir}: no training in it ({error}); name a work directory") from None
    steps = sorted(checkpoint.steps(workdir))
    damaged = checkpoint.damages(workdir)
    log = workdir / METRICS_FILE
    return Run(
        settings,
        read_metrics(workdir),
        events.read(workdir),
        _pictures(settings, workdir, classes) if set(steps) - set(damaged) else None,
        steps,
        damaged,
        lock.owner(workdir),
        time.time() - log.stat().st_mtime if log.exists() else 0.0,
    )


def _pictures(settings: TrainSettings, workdir: Path, classes: int) -> np.ndarray | None:
    """The newest pictures of the replay buffer, [N, H, W], once chains fill it; None before."""
    try:
        state = continue_state(settings, workdir, classes)
    except (InputError, OSError):  # a checkpoint that the training has just replaced
        return None
    if settings.objective != "contrastive" and not 0 < settings.finish_after < int(state.step):
        return None
    count = min(_LOOKED_AT, int(state.buffer.size))
    return np.asarray(replay.newest(state.buffer, jnp.arange(count)))[..., 0]


def diagnose(run: Run) -> list[Finding]:
    """Everything that is wrong with a run, the worst first; nothing for a healthy one."""
    lately = run.rows[-LATELY:]
    found = (check(run, lately) for check in _CHECKS)
    return [finding for finding in found if finding is not None]


def summary(run: Run) -> list[str]:
    """Where the run stands, in a few lines."""
    step = run.rows[-1]["step"] if run.rows else 0
    doing = f"trained by {run.owner}" if run.owner else "nobody trains it now"
    lines = [f"update {step}, {doing}; checkpoints {', '.join(map(str, run.steps)) or 'none yet'}"]
    best = saving.best_step(run.settings, run.rows, run.steps)
    if best is not None:
        name = "energy gap" if run.settings.objective == "contrastive" else "regression error"
        lines.append(f"best checkpoint: {best}, {name} {saving.measure(run.settings, run.rows, best):.4g}")
    lines += [f"event at update {row['step']}: {row['kind']}: {row['text']}" for row in run.happened[-5:]]
    return lines


def _gave_up(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    last = run.happened[-1] if run.happened else None
    if last is None or last["kind"] != "gave up":
        return None
    return Finding(
        "diverged",
        f"the run stopped for good at update {last['step']}: {last['text']}",
        "start a fresh --workdir with a smaller --learning_rate or --norm_clip=1",
    )


def _not_finite(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    count = sum(bool(row.get("skipped")) or ("loss" in row and row["loss"] is None) for row in lately)
    if count == 0:
        return None
    return Finding(
        "not finite",
        f"{count} of the last {len(lately)} logged updates were not finite and not applied",
        "lower --learning_rate, set --norm_clip=1, or use --precision=float32",
    )


def _rolled_back(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    back = [row for row in run.happened if row["kind"] == "rollback"]
    if len(back) < 2 or not lately or back[-1]["step"] < lately[0]["step"]:
        return None
    return Finding(
        "diverging",
        f"the run went back to an earlier checkpoint {len(back)} times, last from update {back[-1]['step']}: "
        f"{back[-1]['text']}",
        "start a fresh --workdir with a smaller --learning_rate or --norm_clip=1",
    )


def _drift(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    """Energies that leave their natural level: a tenth of the bound, and still `_RISE` times what they were."""
    levels = [max(abs(row["real"]), abs(row["fake"])) for row in run.rows if _both(row)]
    if len(levels) < 8:
        return None
    quarter = len(levels) // 4
    now, before = median(levels[-quarter:]), median(levels[-2 * quarter : -quarter])
    bound, contrastive = divergence.energy_bound(run.settings), run.settings.objective == "contrastive"
    if now < 0.1 * bound or now < _RISE * before:
        return None
    return Finding(
        "drift",
        f"the energies run away: {before:.4g} a while ago, {now:.4g} now (the run goes back at {bound:.4g})",
        "raise --alpha or lower --learning_rate" if contrastive else "lower --learning_rate",
    )


def _saturated(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    replaced = [row["replaced"] for row in lately if row.get("replaced") is not None]
    share = sum(replaced) / (len(replaced) * run.settings.chains) if replaced else 0.0
    empty = 0.0 if run.pictures is None else _empty_share(run.pictures)
    if share < _REPLACED_SHARE and empty < _EMPTY_SHARE:
        return None
    return Finding(
        "saturated pixels",
        f"chains end in pictures all black, all white or all grey: {share:.0%} of them were begun afresh, "
        f"{empty:.0%} of the replay buffer shows nothing",
        "lower --step_size or --gradient_clip, so that a chain does not cross from black to white in a few steps",
    )


def _collapse(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    if run.pictures is None or len(run.pictures) < 8:
        return None
    kinds = _count_kinds(run.pictures)
    if kinds > max(1.0, _FEW_KINDS * len(run.pictures)):
        return None
    return Finding(
        "collapse",
        f"the newest {len(run.pictures)} pictures of the replay buffer show only {kinds} different ones",
        "raise --restart, so that more chains start afresh, and --noise; make --buffer_size larger",
    )


def _frozen(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    moved = _values(lately, "moved")
    if not moved or median(moved) >= _STILL:
        return None
    return Finding(
        "buffer frozen",
        f"the chains hardly move: {median(moved):.2g} a pixel in an update (black to white is 2), so the replay buffer "
        "stays what it is",
        "raise --step_size, --gradient_clip or --langevin_steps",
    )


def _cold(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    """Chains that move, but too little to arrive where pictures are: their energies stay above."""
    moved, gap, natural = _values(lately, "moved"), _gap(lately), natural_gap(run.settings)
    if not moved or gap is None or not _STILL <= median(moved) < _SLOW or gap > -_APART * natural:
        return None
    return Finding(
        "chain too cold",
        f"chains move only {median(moved):.2g} a pixel in an update and end {-gap:.4g} above the energy of pictures",
        "raise --langevin_steps, --step_size or --noise",
    )


def _apart(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    gap, natural = _gap(lately), natural_gap(run.settings)
    if gap is None or abs(gap) < _APART * natural or _cold(run, lately) is not None:
        return None
    side = "below" if gap > 0 else "above"
    change = (
        "lower --learning_rate: the chains have found what the network calls a bridge and is none"
        if gap > 0
        else "raise --langevin_steps or lower --learning_rate: the chains no longer reach the pictures"
    )
    return Finding(
        "energies apart",
        f"the energies of fake pictures lie {abs(gap):.4g} {side} those of real ones ({natural:.4g} would be natural)",
        change,
    )


def _stalled(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    speeds = [row["images_per_second"] for row in lately if row.get("images_per_second")]
    steps = [row["step"] for row in lately]
    each = run.settings.batch_size / median(speeds) if speeds else 0.0
    between = median(np.diff(steps)) if len(steps) > 1 else 1
    if run.owner is None or run.quiet < max(_STALLED_AFTER, 30 * each * between):
        return None
    return Finding(
        "stalled",
        f"{run.owner} holds the run, but has logged nothing for {run.quiet / 60:.0f} minutes",
        "look at that process; if it hangs, kill it and run the same command again",
    )


def _damaged(run: Run, lately: Sequence[dict[str, Any]]) -> Finding | None:
    if not run.damaged:
        return None
    return Finding(
        "damaged checkpoints",
        f"{len(run.damaged)} of {len(run.steps)}: {next(iter(run.damaged.values()))}",
        "check the disk; the training goes on from the newest whole checkpoint by itself",
    )


_CHECKS: tuple[Callable[[Run, Sequence[dict[str, Any]]], Finding | None], ...] = (
    _gave_up,
    _not_finite,
    _rolled_back,
    _drift,
    _saturated,
    _collapse,
    _frozen,
    _cold,
    _apart,
    _stalled,
    _damaged,
)


def natural_gap(settings: TrainSettings) -> float:
    """The distance of the energies of real and fake pictures that the objective itself aims at, or tolerates.

    Contrastive: 1 / alpha, where the regulariser balances. The finish of gradient regression: its floor, or 2% of the
    energy between noise and picture (of Equilibrium Matching), whichever is more.
    """
    pixels = settings.height * settings.seen_width
    if settings.objective == "contrastive":
        return 1.0 / settings.alpha if settings.alpha else 0.1 * pixels
    return max(settings.finish_floor, 0.1 * pixels)


def _both(row: dict[str, Any]) -> bool:
    return row.get("real") is not None and row.get("fake") is not None


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _gap(rows: Sequence[dict[str, Any]]) -> float | None:
    """The median of E(real) - E(fake): above 0 where fakes have lower energies."""
    gaps = [row["real"] - row["fake"] for row in rows if _both(row)]
    return median(gaps) if gaps else None


def _empty_share(pictures: np.ndarray) -> float:
    """The share of pictures [N, H, W] that a training would replace: they show nothing, or are not finite."""
    images = jnp.asarray(pictures)[..., None]
    return float((guards.saturated(images) | guards.not_finite(images)).mean())


def _count_kinds(pictures: np.ndarray) -> int:
    """How many of the pictures [N, H, W] differ from all before them."""
    kinds: list[np.ndarray] = []
    for picture in pictures:
        if all(np.abs(picture - other).mean() > _ALIKE for other in kinds):
            kinds.append(picture)
    return len(kinds)

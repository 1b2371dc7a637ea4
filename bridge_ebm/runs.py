"""A training from start to end in a work directory: continue, update, log, save, draw."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from bridge_ebm import checkpoint, data
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, init_state
from bridge_ebm.train import make_train_step, updates_per_epoch
from bridge_ebm.workdir import MetricsLog, open_run

EpochHook = Callable[[TrainState], None]

# The replay buffer makes a checkpoint of the paper's settings 300 MB.
KEEP_CHECKPOINTS = 2


def run_training(
    settings: TrainSettings,
    dataset: data.Dataset,
    workdir: Path,
    max_updates: int | None = None,
    log_every: int = 1,
    on_epoch: EpochHook = lambda state: None,
) -> TrainState:
    """Train on the pictures of `dataset` (halves of them where `settings.mirror` says so) until `settings.epochs` are
    done (or `max_updates`), continuing what `workdir` holds.

    After every epoch (or every `save_every` updates), and at the end, a checkpoint is saved and `on_epoch` called.
    Ctrl-C and SIGTERM finish the update, save, and return. Returns the last state. Raises an `InputError` for a work
    directory of another run, and if the energies diverge (the checkpoint before is kept).
    """
    per_epoch = updates_per_epoch(settings, len(dataset.images))
    total = settings.epochs * per_epoch if max_updates is None else min(max_updates, settings.epochs * per_epoch)
    open_run(workdir, settings, dataset)
    state = continue_state(settings, workdir, len(dataset.subtypes))
    start = int(state.step)
    if start >= total:
        return state
    train_step = make_train_step(settings, len(dataset.subtypes))
    examples = data.examples(dataset)
    with (
        checkpoint.open_folder(workdir, KEEP_CHECKPOINTS) as checkpoints,
        MetricsLog(workdir, start) as log,
        _stop_signal() as stopped,
        tqdm(total=total, initial=start, unit="update", dynamic_ncols=True) as bar,
    ):
        report = _Reporter(log, bar, settings.batch_size, per_epoch, log_every)
        for step in range(start + 1, total + 1):
            state, metrics = train_step(state, examples)
            # The report of an update is read while the next one runs, so that the device never waits for the log.
            report.update(step, metrics)
            if step % (settings.save_every or per_epoch) == 0 or step == total or stopped():
                report.flush()
                checkpoint.save(checkpoints, step, state_parts(state))
                on_epoch(state)
                report.restart_clock()
            if stopped():
                break
    return state


def state_parts(state: TrainState) -> dict[str, Any]:
    """The state as the two parts of a checkpoint."""
    training = {"step": state.step, "opt_state": state.opt_state, "buffer": state.buffer}
    if jax.tree.leaves(state.average):
        training["params"] = state.params
    return {"model": {"params": state.model_params, "batch_stats": state.batch_stats}, "training": training}


def continue_state(settings: TrainSettings, workdir: Path, num_classes: int = 0) -> TrainState:
    """The state of the newest whole checkpoint of `workdir`, or a fresh one; damaged ones are set aside."""
    target = state_parts(jax.eval_shape(lambda: init_state(settings, num_classes)))
    found = checkpoint.restore_newest(workdir, target)
    if found is None:
        return init_state(settings, num_classes)
    step, parts = found
    checkpoint.set_aside_after(workdir, step)
    model, training = parts["model"], parts["training"]
    if "params" in training:
        return TrainState(**training, average=model["params"], batch_stats=model["batch_stats"])
    return TrainState(**training, **model, average=())


class _Reporter:
    """Logs each update one update late, and keeps the progress bar."""

    def __init__(self, log: MetricsLog, bar: Any, batch_size: int, per_epoch: int, log_every: int):
        self._log, self._bar = log, bar
        self._batch_size, self._per_epoch, self._log_every = batch_size, per_epoch, log_every
        self._pending: tuple[int, Metrics] | None = None
        self._clock = time.perf_counter()

    def restart_clock(self) -> None:
        """Leave the time since the last report out of the speed of the next."""
        self._clock = time.perf_counter()

    def update(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of update `step` and report those of the one before."""
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Report what is pending; raises an `InputError` if its loss is not finite."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics._asdict().items()}
        now = time.perf_counter()
        speed = self._batch_size / (now - self._clock)
        self._clock = now
        row = {"step": step, "epoch": (step - 1) // self._per_epoch + 1, **values, "images_per_second": speed}
        if step % self._log_every == 0 or step % self._per_epoch == 0:
            self._log.write(row)
        self._bar.set_postfix_str(
            " ".join(f"{name} {values[name]:.3f}" for name in ("loss", "real", "fake") if np.isfinite(values[name]))
            + f" {speed:.1f} images/s",
            refresh=False,
        )
        self._bar.update()
        if not np.isfinite(values["loss"]):
            raise InputError(
                f"update {step}: the energies diverged (loss {values['loss']}); the last checkpoint is intact; "
                "start a fresh --workdir with a smaller --learning_rate or a larger --alpha"
            )


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C or SIGTERM only sets a flag; a second one acts as usual."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread: a notebook's worker, say
        before |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

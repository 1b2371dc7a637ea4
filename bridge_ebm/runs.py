"""A training from start to end in a work directory: continue, update, log, save, draw."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.auto import tqdm

from bridge_ebm import checkpoint, data, divergence, events, guards, lock, parallel, processes
from bridge_ebm.divergence import Diverged, Rollback
from bridge_ebm.errors import InputError
from bridge_ebm.files import write_atomically
from bridge_ebm.saving import Saver
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import Metrics, TrainState, TrainStep, abstract_state, init_state
from bridge_ebm.train import check_finish, make_train_step, updates_per_epoch
from bridge_ebm.workdir import MetricsLog, check_run, data_checksums, open_run, read_metrics

EpochHook = Callable[[TrainState], None]

_all_finite = jax.jit(guards.all_finite)


class _Plan(NamedTuple):
    """What does not change while a run trains."""

    settings: TrainSettings
    num_classes: int
    mesh: Mesh | None
    train_step: TrainStep
    examples: data.Examples
    workdir: Path
    per_epoch: int
    total: int
    log_every: int
    on_epoch: EpochHook


def run_training(
    settings: TrainSettings,
    dataset: data.Dataset,
    workdir: Path,
    max_updates: int | None = None,
    log_every: int = 1,
    on_epoch: EpochHook = lambda state: None,
    devices: Sequence[jax.Device] | None = None,
) -> TrainState:
    """Train on the pictures of `dataset` (halves of them where `settings.mirror` says so) until `settings.epochs` are
    done (or `max_updates`), continuing what `workdir` holds.

    After every epoch (or every `save_every` updates), and at the end, `on_epoch` is called and a checkpoint saved, in
    this order: what a checkpoint is continued from is drawn already, however the run ended. Ctrl-C and SIGTERM finish
    the update, save, and return. A training that diverges goes back and on more gently (`divergence`). Returns the last
    state.

    It runs on `devices` (None: all there are, of all processes). Each process calls this alike; the first keeps the
    log, all write the checkpoints, to one `workdir`, and what is saved does not depend on the number of devices.

    A `workdir` that is not there is created. Raises an `InputError` for a work directory of another run, or of a model
    without its training, one where another process trains, a checkpoint that cannot be loaded, a disk that takes no
    more, and a divergence that does not mend. The checkpoint before is kept in every case.
    """
    mesh = parallel.data_mesh(settings.shared, devices)
    per_epoch = updates_per_epoch(settings, len(dataset.images))
    check_finish(settings, len(dataset.subtypes))
    total = settings.epochs * per_epoch if max_updates is None else min(max_updates, settings.epochs * per_epoch)
    first = processes.is_first()
    if first:
        workdir.mkdir(parents=True, exist_ok=True)
        check_run(workdir, settings, data_checksums(dataset))
    with ExitStack() as claimed, _writing_explained(workdir):
        if first:
            claimed.enter_context(lock.held(workdir))
            open_run(workdir, settings, dataset)
            checkpoint.clear_debris(workdir)
        processes.wait_for_all("the work directory is open")
        num_classes = len(dataset.subtypes)
        state = _continued(settings, workdir, num_classes, mesh)
        if int(state.step) >= total:
            return state
        train_step = make_train_step(settings, num_classes, mesh)
        examples = data.examples(dataset, mesh, settings.blend)
        if processes.several():
            train_step = _begun_together(train_step)
        plan = _Plan(settings, num_classes, mesh, train_step, examples, workdir, per_epoch, total, log_every, on_epoch)
        stopped = claimed.enter_context(_stop_signal())
        while True:
            try:
                return _train(plan, state, stopped)
            except Diverged as error:
                trouble = error
            state = _rolled_back(plan, trouble)


def _begun_together(train_step: TrainStep) -> TrainStep:
    """The update, compiled by all processes before any of them begins the first."""
    compiled: dict[int, TrainStep] = {}

    def step(*arguments: Any) -> tuple[TrainState, Metrics]:
        if len(arguments) not in compiled:
            compiled[len(arguments)] = cast(Any, train_step).lower(*arguments).compile()
            processes.wait_for_all("the update is compiled")
        return compiled[len(arguments)](*arguments)

    return step


def _train(plan: _Plan, state: TrainState, stopped: Callable[[int], bool]) -> TrainState:
    """Update after update from `state` on; raises `Diverged` if it has."""
    start, settings, workdir = int(state.step), plan.settings, plan.workdir
    rollbacks = divergence.read_rollbacks(workdir)
    first = processes.is_first()
    with (
        MetricsLog(workdir, start) if first else nullcontext() as log,
        Saver(workdir, settings) as saver,
        tqdm(total=plan.total, initial=start, unit="update", dynamic_ncols=True, disable=not first) as bar,
    ):
        processes.wait_for_all("the log is open")  # what lies in it decides for all
        report = _Reporter(plan, log, bar, rollbacks, read_metrics(workdir))
        for step in range(start + 1, plan.total + 1):
            easing = divergence.easing(rollbacks, step)
            gentler = () if easing == 1.0 else (np.float32(easing),)
            state, metrics = plan.train_step(state, plan.examples, *gentler)
            # The report of an update is read while the next one runs, so that the device never waits for the log.
            report.update(step, metrics)
            due, stop = step % (settings.save_every or plan.per_epoch) == 0 or step == plan.total, stopped(step)
            if due or stop:
                report.flush()
                if not _all_finite(state_parts(state)):
                    raise Diverged(step, "the state to be saved is not finite")
                if due:
                    plan.on_epoch(state)
                saver.save(step, state_parts(state))
                processes.wait_for_all("saved")
                report.restart()
            if stop:
                _record(workdir, step, "stopped", "a signal asked the training to stop; it has saved")
                break
    return state


def _rolled_back(plan: _Plan, trouble: Diverged) -> TrainState:
    """The state from which a training that diverged goes on; raises an `InputError` if it has gone back too often."""
    workdir = plan.workdir
    rollbacks = divergence.read_rollbacks(workdir)
    processes.wait_for_all("all have noticed")
    if len(rollbacks) >= divergence.MAX_ROLLBACKS:
        _record(workdir, trouble.step, "gave up", trouble.reason)
        raise InputError(divergence.explanation(trouble.step, trouble.reason, rollbacks))
    saved = sorted(checkpoint.steps(workdir))
    again = len(saved) > 1 and rollbacks and rollbacks[-1].to == saved[-1]
    processes.wait_for_all("all know the checkpoints")
    if again and processes.is_first():
        checkpoint.set_aside_after(workdir, saved[-2], "diverged")
    processes.wait_for_all("the checkpoints are as they were")
    state = _continued(plan.settings, workdir, plan.num_classes, plan.mesh)
    # The checkpoints first: a kill between the two repeats the divergence, and ends here again.
    rollbacks = divergence.after(rollbacks, Rollback(trouble.step, int(state.step), trouble.reason))
    if processes.is_first():
        write_atomically(workdir / divergence.ROLLBACKS_FILE, divergence.rollbacks_text(rollbacks))
    text = f"{trouble.reason}; back to update {int(state.step)}, learning rate x 1/{2 ** len(rollbacks)}"
    _record(workdir, trouble.step, "rollback", text)
    processes.wait_for_all("the rollback is noted")
    return state


def _record(workdir: Path, step: int, kind: str, text: str) -> None:
    """Note an event, once however many processes train."""
    if processes.is_first():
        events.record(workdir, step, kind, text)


def state_parts(state: TrainState) -> dict[str, Any]:
    """The state as the two parts of a checkpoint."""
    training = {"step": state.step, "opt_state": state.opt_state, "buffer": state.buffer}
    if jax.tree.leaves(state.average):
        training["params"] = state.params
    return {"model": {"params": state.model_params, "batch_stats": state.batch_stats}, "training": training}


def continue_state(
    settings: TrainSettings, workdir: Path, num_classes: int = 0, mesh: Mesh | None = None
) -> TrainState:
    """The state of the newest whole checkpoint of `workdir`, or a fresh one. Writes nothing."""
    target = state_parts(abstract_state(settings, num_classes, mesh))
    found = checkpoint.restore_newest(workdir, target)
    if found is None:
        return init_state(settings, num_classes, mesh)
    model, training = found[1]["model"], found[1]["training"]
    if "params" in training:
        return TrainState(**training, average=model["params"], batch_stats=model["batch_stats"])
    return TrainState(**training, **model, average=())


def _continued(settings: TrainSettings, workdir: Path, num_classes: int, mesh: Mesh | None) -> TrainState:
    """As `continue_state`, with the damaged checkpoints set aside, so that the training can write them again."""
    state = continue_state(settings, workdir, num_classes, mesh)
    processes.wait_for_all("all have read the checkpoint")
    for step in checkpoint.set_aside_after(workdir, int(state.step)) if processes.is_first() else []:
        events.record(workdir, step, "damaged", f"checkpoint {step} is damaged; going on from {int(state.step)}")
    return state


class _Reporter:
    """Logs each update one update late (of several processes the first does), keeps the progress bar, and watches for
    divergence.
    """

    def __init__(
        self, plan: _Plan, log: MetricsLog | None, bar: Any, rollbacks: list[Rollback], rows: list[dict[str, Any]]
    ):
        self._plan, self._log, self._bar, self._rollbacks = plan, log, bar, rollbacks
        self._skips = [row["step"] for row in rows if row.get("skipped")]
        self._told: set[str] = set()
        self._pending: tuple[int, Metrics] | None = None
        self._clock = time.perf_counter()

    def restart(self) -> None:
        """Leave the time since the last report out of the speed of the next, and tell of events anew."""
        self._clock = time.perf_counter()
        self._told.clear()
        if self._log is not None:
            self._log.flush()

    def update(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of update `step` and report those of the one before."""
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Report what is pending; raises `Diverged` if the training has."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics._asdict().items()}
        now = time.perf_counter()
        speed = self._plan.settings.batch_size / (now - self._clock)
        self._clock = now
        row = {"step": step, "epoch": (step - 1) // self._plan.per_epoch + 1, **values, "images_per_second": speed}
        # Updates that were not applied are logged in any case: the rule of `divergence` counts them after a restart.
        logged = step % self._plan.log_every == 0 or step % self._plan.per_epoch == 0 or values["skipped"] > 0
        if self._log is not None and logged:
            self._log.write(row)
        self._bar.set_postfix_str(
            " ".join(f"{name} {values[name]:.3f}" for name in ("loss", "real", "fake") if np.isfinite(values[name]))
            + f" {speed:.1f} images/s",
            refresh=False,
        )
        self._bar.update()
        self._watch(step, values)

    def _watch(self, step: int, values: dict[str, float]) -> None:
        if values["skipped"] > 0:
            self._skips.append(step)
            self._tell(step, "skipped", f"the update was not finite (loss {values['loss']}) and not applied")
        if values["replaced"] > 0:
            self._tell(step, "replaced", f"{values['replaced']:.0f} chains not finite or empty, begun afresh")
        lately = divergence.skipped_lately(self._skips, step, self._rollbacks)
        reason = divergence.trouble(self._plan.settings, values, lately)
        if reason is not None:
            raise Diverged(step, reason)

    def _tell(self, step: int, kind: str, text: str) -> None:
        """Record the first event of a kind since the last save; metrics.jsonl counts the others."""
        if kind not in self._told:
            self._told.add(kind)
            _record(self._plan.workdir, step, kind, text)


@contextmanager
def _writing_explained(workdir: Path) -> Iterator[None]:
    """Within the block, what the disk refuses becomes an `InputError` that says where the run stands."""
    try:
        yield
    except OSError as error:
        if processes.lost(error):  # a time-out is an OSError too
            raise
        newest = checkpoint.newest_step(workdir)
        kept = "no checkpoint was saved yet" if newest is None else f"checkpoint {newest} is intact"
        raise InputError(
            f"{error.filename or workdir}: cannot be written ({error.strerror or error}); {kept}; make room there, and "
            "run the same command again"
        ) from error


@contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
    """Within the block, the first Ctrl-C or SIGTERM only sets a flag; a second Ctrl-C acts as usual, and where one
    process trains alone a second SIGTERM does too.

    Gives a function of the number of the update, to be called after each: whether to stop there. Several processes
    stop after the same update, whichever of them got the signal.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    before: dict[int, Any] = {}
    several = processes.several()
    # JAX has its own handler of SIGTERM, by which several processes agree where to stop.
    noted = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    with suppress(ValueError):  # not the main thread: a notebook's worker, say
        before |= {number: signal.signal(number, note) for number in noted}
    try:
        yield processes.agreed_to_stop if several else lambda step: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

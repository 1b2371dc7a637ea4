"""Injected divergences: each is mended before it spreads, rolled back, or ends with an explanation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from bridge_ebm import checkpoint, events, runs
from bridge_ebm.errors import InputError
from bridge_ebm.state import TrainState
from faults import tiny

Poison = Callable[[TrainState], TrainState]
_UPDATES, _AT = 12, 6


def run(count: int, folder: Path) -> dict[str, Any]:
    """Inject `count` divergences; each kind once, at every time, and in turn at other updates."""
    chosen = tiny.settings(save_every=4)
    figures: dict[str, Any] = {"cases": count, "recovered": 0, "explained": 0, "failures": []}
    for number in range(count):
        name, poison = list(POISONS.items())[number % len(POISONS)]
        again = number // len(POISONS) % 2 == 1
        workdir = folder / f"diverged_{number}"
        outcome = _one(workdir, poison, _AT + number % 3, again, chosen)
        if outcome in ("recovered", "explained"):
            figures[outcome] += 1
        else:
            figures["failures"].append(f"{name}{', again and again' if again else ''}: {outcome}")
        shutil.rmtree(workdir)
    return figures | {"passed": not figures["failures"]}


def _one(workdir: Path, poison: Poison, at: int, again: bool, chosen: Any) -> str:
    """Train with the state poisoned before update `at`, once or every time the training comes by."""
    step, done = tiny.compiled(), []

    def poisoned(state: TrainState, *others: Any) -> Any:
        if int(state.step) + 1 == at and (again or not done):
            done.append(at)
            state = poison(state)
        return step(state, *others)

    outcome = "recovered"
    with mock.patch.object(runs, "make_train_step", lambda *_: poisoned):
        try:
            state = tiny.train(workdir, _UPDATES, chosen)
            if int(state.step) != _UPDATES or not _finite(state):
                return "ended with numbers that are not finite"
        except InputError as error:
            outcome = "explained"
            if "diverged" not in str(error) or "\n" in str(error):
                return f"ended with {error}"
    if not done or not events.read(workdir):
        return "left no event"
    if checkpoint.steps(workdir) and not _finite(runs.continue_state(chosen, workdir, len(tiny.dataset().subtypes))):
        return "saved numbers that are not finite"
    return outcome


def _finite(state: TrainState) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))


def _params(change: Callable[[jax.Array], jax.Array]) -> Poison:
    return lambda state: state._replace(params=jax.tree.map(change, state.params))


def _images(change: Callable[[jax.Array], jax.Array]) -> Poison:
    return lambda state: state._replace(buffer=state.buffer._replace(images=change(state.buffer.images)))


def _moments(change: Callable[[jax.Array], jax.Array]) -> Poison:
    moved = lambda leaf: change(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf  # noqa: E731
    return lambda state: state._replace(opt_state=jax.tree.map(moved, state.opt_state))


POISONS: dict[str, Poison] = {
    "weights not a number": _params(lambda leaf: leaf * jnp.nan),
    "weights infinite": _params(lambda leaf: leaf + jnp.inf),
    "weights a thousand times": _params(lambda leaf: leaf * 1e3),
    "weights of 1e20": _params(lambda leaf: jnp.full_like(leaf, 1e20)),
    "one chain not a number": _images(lambda images: images.at[0].set(jnp.nan)),
    "all chains not a number": _images(lambda images: images * jnp.nan),
    "chains all black": _images(lambda images: jnp.full_like(images, -1.0)),
    "chains infinite": _images(lambda images: images + jnp.inf),
    "Adam's moments not a number": _moments(lambda leaf: leaf * jnp.nan),
    "Adam's moments of 1e30": _moments(lambda leaf: jnp.full_like(leaf, 1e30)),
}

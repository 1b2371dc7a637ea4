"""When a training has diverged, and how it goes on."""

import math

import jax
import numpy as np
import pytest
from faults import tiny
from faults.divergences import POISONS

import bridge_ebm
from bridge_ebm import checkpoint, divergence, events, runs
from bridge_ebm.divergence import Rollback
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.workdir import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PAPER = TrainSettings()
FINISH = TrainSettings(network="multiscale", mirror=True, objective="equilibrium", finish_after=4500, buffer_size=256)
CALM = {"loss": 0.1, "real": -1.0, "fake": 1.2, "regression": math.nan}
# The largest of default.cfg's run on one machine: energies to -15,800, gaps to 128, an error of 18 at the start.
HEALTHY = [
    {"loss": 18.0, "real": math.nan, "fake": math.nan, "regression": 18.0},
    {"loss": 0.3, "real": -15_786.0, "fake": -15_914.0, "regression": 0.21},
    {"loss": 0.3, "real": -14_460.0, "fake": -14_260.0, "regression": 0.21},
]


def test_healthy_updates_are_no_trouble():
    assert divergence.trouble(PAPER, CALM, 2) is None
    assert all(divergence.trouble(FINISH, values, 0) is None for values in HEALTHY)


@pytest.mark.parametrize(
    ("settings", "values", "reason"),
    [
        (PAPER, {**CALM, "fake": 600.0}, "mean energy of fake pictures is 600, beyond 500"),
        (PAPER, {**CALM, "real": -600.0}, "mean energy of real"),
        (FINISH, {**HEALTHY[1], "real": -8e5, "fake": -8e5}, "beyond 737280"),
        (FINISH, {**HEALTHY[1], "fake": -21_000.0}, "are 5214 apart, more than 4608"),
        (FINISH, {**HEALTHY[0], "regression": 700.0}, "regression error is 700"),
    ],
)
def test_energies_beyond_the_bound_are(settings, values, reason):
    assert reason in divergence.trouble(settings, values, 0)


def test_three_of_twenty_that_are_not_finite_are():
    skips = [4, 10, 23, 24]
    assert divergence.skipped_lately(skips, 22, []) == 2
    assert divergence.skipped_lately(skips, 24, []) == 3  # update 4 is 20 updates ago
    assert divergence.skipped_lately(skips, 24, [Rollback(23, 20, "")]) == 2  # what was before the return, is over
    assert divergence.trouble(PAPER, CALM, 3) == "3 of the last 20 updates were not finite"


def test_each_rollback_halves_the_learning_rate_of_what_comes_after():
    once = divergence.after([], Rollback(120, 100, ""))
    assert [divergence.easing(once, step) for step in (100, 101)] == [1.0, 0.5]
    twice = divergence.after(once, Rollback(115, 80, ""))
    assert [divergence.easing(twice, step) for step in (80, 81, 101)] == [1.0, 0.25, 0.25]


def test_rollbacks_are_read_as_written_and_damage_is_refused(tmp_path):
    assert divergence.read_rollbacks(tmp_path) == []
    written = [Rollback(120, 100, "x"), Rollback(110, 100, "y")]
    (tmp_path / divergence.ROLLBACKS_FILE).write_text(divergence.rollbacks_text(written))
    assert divergence.read_rollbacks(tmp_path) == written
    (tmp_path / divergence.ROLLBACKS_FILE).write_text("[{}]")
    with pytest.raises(InputError, match=r"rollbacks\.json: cannot be read"):
        divergence.read_rollbacks(tmp_path)


def poisoned_before(updates, name, monkeypatch, stop_after=None):
    """Weights that are spoiled before each of `updates` as long as the learning rate is not halved."""
    step = tiny.compiled()

    def train_step(state, examples, *easing):
        if int(state.step) + 1 in updates and not easing:
            state = POISONS[name](state)
        if stop_after is not None and int(state.step) == stop_after:
            raise KeyboardInterrupt
        return step(state, examples, *easing)

    monkeypatch.setattr(runs, "make_train_step", lambda *_: train_step)


def test_a_run_that_diverged_goes_back_and_on_more_gently(tmp_path, monkeypatch):
    poisoned_before({6}, "weights not a number", monkeypatch)
    state = tiny.train(tmp_path, 12, tiny.settings(save_every=4))
    assert int(state.step) == 12 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert [(back.step, back.to) for back in divergence.read_rollbacks(tmp_path)] == [(8, 4)]
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 13))
    assert not any(row["skipped"] for row in read_metrics(tmp_path))
    told = {row["kind"]: row["text"] for row in events.read(tmp_path)}
    assert "back to update 4, learning rate x 1/2" in told["rollback"] and {"skipped", "replaced"} <= told.keys()


@pytest.mark.parametrize("name", ["weights infinite", "Adam's moments not a number"])
def test_a_state_that_is_not_finite_is_never_saved(name, tmp_path, monkeypatch):
    """Spoiled just before a save, when too few updates have been skipped to be trouble by themselves."""
    poisoned_before({7}, name, monkeypatch)
    state = tiny.train(tmp_path, 9, tiny.settings(save_every=4))
    assert int(state.step) == 9 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert [(back.step, back.to) for back in divergence.read_rollbacks(tmp_path)] == [(8, 4)]


def test_a_run_that_is_killed_after_it_went_back_ends_the_same(tmp_path, monkeypatch):
    settings = tiny.settings(save_every=4)
    with monkeypatch.context() as patch:
        poisoned_before({6}, "weights not a number", patch)
        tiny.train(tmp_path / "whole", 12, settings)
    for killed_at in (7, 9):
        folder = tmp_path / f"killed_{killed_at}"
        with monkeypatch.context() as patch:
            poisoned_before({6}, "weights not a number", patch, stop_after=killed_at)
            with pytest.raises(KeyboardInterrupt):
                tiny.train(folder, 12, settings)
        with monkeypatch.context() as patch:
            poisoned_before({6}, "weights not a number", patch)
            tiny.train(folder, 12, settings)
        assert tiny.difference(folder, tmp_path / "whole", settings) == []


def test_a_run_that_diverges_again_and_again_stops_with_an_explanation(tmp_path, monkeypatch):
    step = tiny.compiled()

    def train_step(state, examples, *easing):
        return step(POISONS["weights a thousand times"](state) if int(state.step) > 6 else state, examples, *easing)

    monkeypatch.setattr(runs, "make_train_step", lambda *_: train_step)
    settings = tiny.settings(save_every=3)
    with pytest.raises(InputError, match=r"update \d+: the energies diverged .* 3 times back .* --learning_rate"):
        tiny.train(tmp_path, 12, settings)
    back = divergence.read_rollbacks(tmp_path)
    assert len(back) == divergence.MAX_ROLLBACKS and back[0].to == 3  # the second time it went one further back
    assert events.read(tmp_path)[-1]["kind"] == "gave up"
    state = runs.continue_state(settings, tmp_path, 8)
    assert int(state.step) == checkpoint.newest_step(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, bridge_ebm.load_model(tmp_path).params)))

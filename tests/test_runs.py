"""A training in a work directory: what it writes, how it continues, and what it refuses."""

import dataclasses
import functools
import json
import os
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import bridge_ebm
from bridge_ebm import checkpoint, data, runs
from bridge_ebm.errors import InputError
from bridge_ebm.state import init_state
from bridge_ebm.train import make_train_step
from bridge_ebm.workdir import MetricsLog, model_settings, open_run, read_metrics

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def step_of():
    """`make_train_step`, compiled once for all runs of the same settings."""
    return functools.cache(make_train_step)


@pytest.fixture(autouse=True)
def _steps_are_compiled_once(monkeypatch, step_of):
    monkeypatch.setattr(runs, "make_train_step", step_of)


@pytest.fixture(scope="module")
def dataset(tiny):
    return data.procedural(tiny.height, tiny.width, per_type=tiny.per_type)


def with_settings(settings, **changes):
    return dataclasses.replace(settings, **changes)


def assert_same_state(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows_without_timing(workdir):
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_metrics(workdir)]


def test_six_updates_are_three_then_three_bit_for_bit(tiny, dataset, tmp_path):
    whole = runs.run_training(tiny, dataset, make(tmp_path / "whole"), max_updates=6)
    runs.run_training(tiny, dataset, make(tmp_path / "parts"), max_updates=3)
    parts = runs.run_training(tiny, dataset, tmp_path / "parts", max_updates=6)
    assert_same_state(whole, parts)
    assert rows_without_timing(tmp_path / "whole") == rows_without_timing(tmp_path / "parts")
    assert [row["step"] for row in read_metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


def make(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("blend", [False, True])
def test_pictures_to_blend_with_are_given_to_the_step_where_that_is_asked_for(
    tiny, dataset, tmp_path, monkeypatch, blend
):
    class Reached(Exception):
        pass

    def step(state, examples):
        raise Reached(examples)

    monkeypatch.setattr(runs, "make_train_step", lambda *_: step)
    monkeypatch.setattr(runs, "_continued", lambda *_: SimpleNamespace(step=0))
    with pytest.raises(Reached) as reached:
        runs.run_training(with_settings(tiny, objective="equilibrium", blend=blend), dataset, tmp_path)
    (examples,) = reached.value.args
    np.testing.assert_array_equal(examples.images, dataset.images)
    assert (examples.beside is not None) == blend
    if blend:
        np.testing.assert_array_equal(examples.beside, data.neighbours(dataset))


def test_a_run_leaves_what_the_contract_names(tiny, dataset, tmp_path):
    epochs = []
    runs.run_training(tiny, dataset, tmp_path, on_epoch=lambda state: epochs.append(int(state.step)))
    per_epoch = len(dataset.images) // tiny.batch_size
    assert epochs == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    for row in read_metrics(tmp_path):
        assert {"step", "epoch", "loss", "reg", "cdiv", "real", "fake", "images_per_second"} <= row.keys()
        assert row["epoch"] == (row["step"] - 1) // per_epoch + 1
        assert row["loss"] == pytest.approx(row["cdiv"] + row["reg"], abs=1e-5)
    assert checkpoint.newest_step(tmp_path) == 3 * per_epoch
    assert list(tmp_path.glob("events.out.tfevents.*"))
    flags = (tmp_path / "run.cfg").read_text()
    assert f"--height={tiny.height}\n" in flags and f"--alpha={tiny.alpha}\n" in flags


def test_load_model_gives_the_energy_that_was_trained(tiny, dataset, tmp_path):
    state = runs.run_training(tiny, dataset, tmp_path, max_updates=2)
    model = bridge_ebm.load_model(tmp_path)
    assert_same_state(model.params, state.params)
    assert (model.height, model.width) == (tiny.height, tiny.width)
    assert model.settings == model_settings(tiny, dataset.subtypes)
    start = model.start(jax.random.key(0), 3)
    end = bridge_ebm.sample(jax.random.key(1), start, model.energy(), model.settings.langevin)
    assert end.shape == (3, tiny.height, tiny.width, 1) and np.abs(end).max() <= 1
    with pytest.raises(ValueError, match="it knows no sub-types"):
        model.energy("beam")


def test_log_every_keeps_the_last_update_of_an_epoch(tiny, dataset, tmp_path):
    runs.run_training(tiny, dataset, tmp_path, max_updates=9, log_every=3)
    assert [row["step"] for row in read_metrics(tmp_path)] == [3, 4, 6, 8, 9]


def test_a_signal_saves_and_stops_after_the_update(tiny, dataset, tmp_path, monkeypatch):
    compiled = runs.make_train_step(tiny, 8, None)
    whole = runs.run_training(tiny, dataset, make(tmp_path / "whole"), max_updates=7)

    def interrupted(state, examples):
        if int(state.step) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return compiled(state, examples)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "make_train_step", lambda *_: interrupted)
        stopped = runs.run_training(tiny, dataset, make(tmp_path / "stopped"))
    assert int(stopped.step) == checkpoint.newest_step(tmp_path / "stopped") == 6
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same_state(runs.run_training(tiny, dataset, tmp_path / "stopped", max_updates=7), whole)


def test_a_second_interrupt_acts_as_usual_where_several_processes_train(monkeypatch):
    came = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:  # in place of Python's, and of JAX's
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        monkeypatch.setattr(runs.processes, "several", lambda: True)
        monkeypatch.setattr(runs.processes, "agreed_to_stop", lambda step: step == 7)
        with runs._stop_signal() as stopped:
            usual = signal.getsignal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert came == [signal.SIGTERM] and stopped(7) and not stopped(8)
            signal.raise_signal(signal.SIGINT)
            assert came == [signal.SIGTERM, signal.SIGINT]
            assert signal.getsignal(signal.SIGTERM) is usual
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interrupted_log_loses_what_the_checkpoint_does_not_know(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": float("nan") if step == 2 else 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    assert [row["loss"] for row in read_metrics(tmp_path)] == [0.5, None, 0.5]
    with MetricsLog(tmp_path, 2) as log:
        log.write({"step": 3, "loss": 0.25})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.25}]


def test_a_finished_run_is_left_as_it_is(tiny, dataset, tmp_path):
    runs.run_training(tiny, dataset, tmp_path, max_updates=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    called = []
    assert int(runs.run_training(tiny, dataset, tmp_path, max_updates=2, on_epoch=called.append).step) == 2
    assert not called and (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 3e-4}, r"holds a run with --learning_rate=0\.0001, not 0\.0003"),
        ({"width": 64}, "holds a run with --width=32, not 64"),
        ({"seed": 1}, "holds a run with --seed=0, not 1"),
    ],
)
def test_a_work_directory_of_another_run_is_refused(tiny, dataset, tmp_path, changes, message):
    open_run(tmp_path, tiny, dataset)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        open_run(tmp_path, with_settings(tiny, **changes), dataset)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    open_run(tmp_path, with_settings(tiny, epochs=99), dataset)  # a longer training is the same run


def test_changed_pictures_and_foreign_folders_are_refused(tiny, dataset, tmp_path):
    open_run(make(tmp_path / "run"), tiny, dataset)
    with pytest.raises(InputError, match="listed under, or how bridge_ebm prepares them, changed"):
        open_run(tmp_path / "run", tiny, dataset._replace(images=dataset.images[::-1]))
    for changed in ({"labels": dataset.labels[::-1]}, {"base": dataset.base + 1}, {"subtypes": dataset.subtypes[::-1]}):
        with pytest.raises(InputError, match="listed under, or how bridge_ebm prepares them, changed"):
            open_run(tmp_path / "run", tiny, dataset._replace(**changed))
    path = tmp_path / "run" / "settings.json"  # an older run says nothing of its labels
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "labels_crc32"}))
    open_run(tmp_path / "run", tiny, dataset)
    (make(tmp_path / "other") / "thesis.doc").write_text("precious")
    with pytest.raises(InputError, match="is not a run; use a fresh folder"):
        open_run(tmp_path / "other", tiny, dataset)
    (tmp_path / "run" / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json: cannot be read"):
        open_run(tmp_path / "run", tiny, dataset)


def test_an_exported_model_is_refused_as_a_work_directory_and_left_as_it_is(tiny, dataset, tmp_path):
    open_run(tmp_path, tiny, dataset)
    (tmp_path / "run.cfg").unlink()
    path = tmp_path / "settings.json"
    record = json.loads(path.read_text())
    record["model"]["levels"] = [0.5]
    path.write_text(json.dumps(record))
    checkpoint.save(tmp_path, 1, {"model": {"params": np.ones(3), "batch_stats": {}}})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for settings in (tiny, with_settings(tiny, seed=1)):
        with pytest.raises(InputError, match=r"holds an exported model, which cannot be continued; use a fresh"):
            runs.run_training(settings, dataset, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_work_directory_that_is_not_there_is_created(tiny, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_continued", lambda *_: SimpleNamespace(step=0))
    runs.run_training(tiny, dataset, tmp_path / "new" / "run", max_updates=0)
    assert (tmp_path / "new" / "run" / "settings.json").is_file()


def test_checkpoints_of_another_network_are_named(tiny, dataset, tmp_path):
    runs.run_training(tiny, dataset, tmp_path, max_updates=1)
    larger = jax.eval_shape(lambda: init_state(with_settings(tiny, width=64)))
    with pytest.raises(
        InputError, match=r"checkpoints/1: another network wrote this checkpoint \(model/params/Dense_0/kernel"
    ):
        checkpoint.restore(tmp_path, 1, runs.state_parts(larger))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != checkpoint.CHECKSUMS)


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_damage_to_any_file_is_noticed_and_named(tiny, dataset, tmp_path, how):
    runs.run_training(tiny, dataset, tmp_path, max_updates=1)
    folder = tmp_path / "checkpoints" / "1"
    for path in files_of(folder):
        content = path.read_bytes()
        damage(path, how)
        with pytest.raises(checkpoint.DamagedCheckpoint, match=rf"checkpoints/1: damaged .*{path.name}"):
            checkpoint.restore(tmp_path, 1, runs.state_parts(init_state(tiny)))
        path.write_bytes(content)
    checkpoint.restore(tmp_path, 1, runs.state_parts(init_state(tiny)))


def test_the_checkpoint_before_a_damaged_one_is_used(tiny, dataset, tmp_path):
    whole = runs.run_training(tiny, dataset, make(tmp_path / "whole"), max_updates=8)
    run = make(tmp_path / "run")
    for updates in (2, 4):
        runs.run_training(tiny, dataset, run, max_updates=updates)
    damage(files_of(run / "checkpoints" / "4" / "model")[0], "flipped")
    with pytest.warns(UserWarning, match=r"checkpoints/4: damaged"):
        assert int(bridge_ebm.load_model(run).params["Conv_0"]["bias"].size) == 32
    with pytest.warns(UserWarning, match=r"checkpoints/4: damaged"):
        assert_same_state(runs.run_training(tiny, dataset, run, max_updates=8), whole)
    assert rows_without_timing(run) == rows_without_timing(tmp_path / "whole")
    assert (run / "checkpoints" / "4.damaged").is_dir() and checkpoint.newest_step(run) == 8


def test_a_model_whose_only_checkpoint_is_damaged_is_refused(tiny, dataset, tmp_path):
    runs.run_training(tiny, dataset, tmp_path, max_updates=1)
    damage(files_of(tmp_path / "checkpoints" / "1" / "model")[0], "truncated")
    message = r"checkpoints/1: damaged .*; no whole one is left there: restore the folder"
    with pytest.raises(InputError, match=message):
        bridge_ebm.load_model(tmp_path)


def test_load_model_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="--model=nowhere: neither a shipped model"):
        bridge_ebm.load_model("nowhere")
    (tmp_path / "settings.json").write_text(json.dumps({"model": {"network": "paper"}}))
    with pytest.raises(InputError, match=r"settings\.json: not the settings of a model"):
        bridge_ebm.load_model(tmp_path)


def test_a_run_without_a_checkpoint_is_not_a_model_yet(tiny, dataset, tmp_path):
    open_run(tmp_path, tiny, dataset)
    with pytest.raises(InputError, match=r"no checkpoint in .* yet"):
        bridge_ebm.load_model(tmp_path)

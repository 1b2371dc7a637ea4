"""Saving beside the updates, what stays, and what a disk that takes no more leaves."""

import errno
import shutil
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from bridge_ebm import checkpoint, saving
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.tensorboard import EventFile

REGRESSION = TrainSettings(network="multiscale", objective="equilibrium")
FINISH = TrainSettings(network="multiscale", objective="equilibrium", finish_after=250, buffer_size=256)
CONTRASTIVE = TrainSettings()


def parts(value):
    return {"model": {"params": {"a": jnp.full(3, value)}, "batch_stats": {}}, "training": {"step": jnp.int32(value)}}


def rows(errors, **others):
    """Fifty updates of each of the errors."""
    wanted = [(50 * k + i + 1, error) for k, error in enumerate(errors) for i in range(50)]
    return [{"step": step, "epoch": 1, "regression": error, **others} for step, error in wanted]


def test_the_newest_two_and_the_best_stay():
    steps, errors = [100, 200, 300, 400], [9, 5, 9, 2, 9, 3, 9, 4]
    assert saving.measure(REGRESSION, rows(errors), 200) == 2
    assert saving.best_step(REGRESSION, rows(errors), steps) == 200
    assert saving.to_keep(REGRESSION, rows(errors), steps) == {200, 300, 400}
    assert saving.to_keep(FINISH, rows(errors), steps) == {300, 400}  # one of the finish is better than any before
    assert saving.to_keep(REGRESSION, [], steps) == {300, 400}
    assert saving.to_keep(REGRESSION, [], []) == set()


def test_an_energy_that_has_learned_nothing_is_not_the_best():
    gaps = {1: (0.0, 0.0), 2: (-3.0, 1.0), 3: (-1.0, 0.0)}
    logged = [
        {"step": 50 * (epoch - 1) + k + 1, "epoch": epoch, "real": real, "fake": fake}
        for epoch, (real, fake) in gaps.items()
        for k in range(50)
    ]
    assert [saving.measure(CONTRASTIVE, logged, step) for step in (50, 100, 150)] == [None, 4.0, 1.0]
    assert saving.best_step(CONTRASTIVE, logged, [50, 100, 150]) == 150


def test_saves_run_beside_the_training_on_a_copy(tmp_path, monkeypatch):
    begun, go_on, write = threading.Event(), threading.Event(), checkpoint.save

    def slow(*arguments):
        begun.set()
        assert go_on.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    with saving.Saver(tmp_path, REGRESSION) as saver:
        state = parts(1)
        saver.save(1, state)
        assert begun.wait(60) and checkpoint.newest_step(tmp_path) is None
        state["model"]["params"]["a"].delete()  # as an update does that reuses its memory
        go_on.set()
        for step in (2, 3, 4):
            saver.save(step, parts(step))
    assert sorted(checkpoint.steps(tmp_path)) == [3, 4]
    assert int(checkpoint.restore(tmp_path, 4, parts(0))["training"]["step"]) == 4
    assert checkpoint.damages(tmp_path) == {}


def test_a_save_that_fails_is_told_at_the_next_one_and_leaves_the_one_before(tmp_path, monkeypatch):
    with saving.Saver(tmp_path, REGRESSION) as saver:
        saver.save(1, parts(1))

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_checksums", full)
    with (
        pytest.raises(InputError, match=r"checkpoints/2: .*No space left.* those before are intact"),
        saving.Saver(tmp_path, REGRESSION) as saver,
    ):
        saver.save(2, parts(2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, 1, parts(0))["model"]["params"]["a"], jnp.ones(3))


def test_what_interrupted_saves_leave_is_no_checkpoint_and_goes(tmp_path):
    checkpoint.save(tmp_path, 5, parts(5))
    folder = tmp_path / "checkpoints"
    for name in ("6.partial", "6.partial.orbax-checkpoint-tmp", "4.old", "7.orbax-checkpoint-tmp-12", "007", "mine"):
        (folder / name).mkdir()
    assert checkpoint.newest_step(tmp_path) == 5
    checkpoint.clear_debris(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["007", "5", "mine"]
    checkpoint.save(tmp_path, 6, parts(6))
    checkpoint.prune(tmp_path, {6})
    assert checkpoint.steps(tmp_path) == [6]


def test_checkpoints_set_aside_twice_keep_the_later(tmp_path):
    for value in (1, 2):
        checkpoint.save(tmp_path, 5, parts(value))
        assert checkpoint.set_aside_after(tmp_path, 4) == [5]
    assert checkpoint.steps(tmp_path) == [] and (tmp_path / "checkpoints" / "5.damaged").is_dir()


def test_a_checkpoint_without_its_checksums_is_damaged(tmp_path):
    checkpoint.save(tmp_path, 5, parts(5))
    (tmp_path / "checkpoints" / "5" / checkpoint.CHECKSUMS).unlink()
    assert "checksums.json" in checkpoint.damages(tmp_path)[5]
    with pytest.raises(checkpoint.DamagedCheckpoint, match="checkpoints/5: damaged"):
        checkpoint.restore(tmp_path, 5, parts(0))


@pytest.mark.parametrize("text", ["null", "3", '["model/a"]'])
def test_checksums_that_are_none_are_damage(tmp_path, text):
    checkpoint.save(tmp_path, 5, parts(5))
    (tmp_path / "checkpoints" / "5" / checkpoint.CHECKSUMS).write_text(text)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="checkpoints/5: damaged"):
        checkpoint.restore(tmp_path, 5, parts(0))


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("ocp.load_checkpointables", MemoryError()),
        ("ocp.load_checkpointables", RuntimeError("RESOURCE_EXHAUSTED: out of memory")),
        ("ocp.checkpointables_metadata", OSError(errno.EIO, "Input/output error")),
        ("_checksum", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_a_whole_checkpoint_that_cannot_be_loaded_is_not_passed_over(tmp_path, monkeypatch, where, error):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, parts(step))

    def fail(*_):
        raise error

    monkeypatch.setattr(f"bridge_ebm.checkpoint.{where}", fail)
    with pytest.raises(InputError, match=r"checkpoints/2: this checkpoint cannot be (loaded|read) \(") as refused:
        checkpoint.restore_newest(tmp_path, parts(0))
    assert not isinstance(refused.value, checkpoint.DamagedCheckpoint)  # which the training would set aside
    assert (str(error) or "MemoryError") in str(refused.value) and "run the same command again" in str(refused.value)
    monkeypatch.undo()
    assert checkpoint.restore_newest(tmp_path, parts(0))[0] == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_checkpoint_that_a_training_removes_meanwhile_is_not_damaged(tmp_path, monkeypatch, when):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, parts(step))
    (tmp_path / "checkpoints" / "2" / checkpoint.CHECKSUMS).write_text("{}")
    check = checkpoint._check_files

    def pruned(folder, names):
        if when == "after":
            check(folder, names)
        if folder.name == "1":
            shutil.rmtree(folder)
        check(folder, names) if when == "before" else None

    monkeypatch.setattr(checkpoint, "_check_files", pruned)
    assert list(checkpoint.damages(tmp_path)) == [2]


def test_a_part_is_missing_where_it_was_never_saved_not_where_it_was_lost(tmp_path):
    assert not checkpoint.written_without(tmp_path, "training")
    checkpoint.save(tmp_path, 5, {"model": parts(5)["model"]})
    assert checkpoint.written_without(tmp_path, "training") and not checkpoint.written_without(tmp_path, "model")
    checkpoint.save(tmp_path, 6, parts(6))
    newer = tmp_path / "checkpoints" / "6"
    shutil.rmtree(newer / "training")
    assert not checkpoint.written_without(tmp_path, "training")
    (newer / checkpoint.CHECKSUMS).write_text("{")
    assert not checkpoint.written_without(tmp_path, "training")


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    board = EventFile(tmp_path, 3)
    board.add(3, {"loss": 0.5, "real": -1.0}, 12.0)
    board.close()
    (path,) = tmp_path.iterdir()
    raw, found = path.read_bytes(), []
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        found.append(Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    assert found[0].file_version == "brain.Event:2" and found[1].session_log.status == 1 and found[1].step == 3
    assert [(event.step, event.summary.value[0].tag) for event in found[2:]] == [(3, "loss"), (3, "real")]
    assert found[2].summary.value[0].simple_value == 0.5

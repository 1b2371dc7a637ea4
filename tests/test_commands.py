"""The commands as a user runs them: real processes, real folders."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bridge_ebm import lock
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings

TINY = [
    "--height=16",
    "--width=32",
    "--per_type=8",
    "--epochs=2",
    "--batch_size=8",
    "--buffer_size=24",
    "--langevin_steps=3",
    "--sample_steps=4",
]


def assert_refused(process, *parts):
    """One line on stderr that names the fault, a non-zero exit, no traceback."""
    assert process.returncode != 0
    last = process.stderr.strip().splitlines()[-1]
    assert "Traceback" not in process.stderr
    for part in parts:
        assert part in last


pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory that train.py has filled and finished."""
    import subprocess
    import sys

    from conftest import ROOT

    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    command = [sys.executable, str(ROOT / "experiments/train.py"), *TINY, f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_train_writes_its_folder_and_run_cfg_repeats_it(trained, run_script, tmp_path):
    workdir, done = trained
    names = {path.name for path in workdir.iterdir()}
    assert {"run.cfg", "settings.json", "metrics.jsonl", "checkpoints", "samples", "curves.png"} <= names
    pictures = sorted(path.name for path in (workdir / "samples").iterdir())
    assert pictures == [f"step_{step:06d}_{kind}.png" for step in (4, 8) for kind in ("buffer", "noise")]
    for name in pictures:
        assert str(workdir / "samples" / name) in done.stdout or "000004" in name
        assert np.asarray(Image.open(workdir / "samples" / name)).shape == (5 * 20 + 4, 2 * 36 + 4)

    again = run_script("train", f"--flagfile={workdir / 'run.cfg'}", f"--workdir={workdir}")
    assert again.returncode == 0 and "This run is finished: 8 updates" in again.stdout
    repeat = run_script("train", f"--flagfile={workdir / 'run.cfg'}", f"--workdir={tmp_path / 'repeat'}")
    assert repeat.returncode == 0
    for kind in ("buffer", "noise"):
        ours, theirs = (folder / "samples" / f"step_000008_{kind}.png" for folder in (workdir, tmp_path / "repeat"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_trajectory_of_a_trained_model(trained, run_script, tmp_path):
    flags = ["--steps=12", "--frames=0,5,11", "--chains=3", f"--out={tmp_path}"]
    done = run_script("langevin_trajectory", f"--model={trained[0]}", *flags)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "trajectory.json").read_text())
    assert np.shape(record["frame_energies"]) == (3, 3) and np.shape(record["chain_energies"]) == (3, 12)
    for name in ("step_0000.png", "step_0005.png", "step_0011.png"):
        assert np.asarray(Image.open(tmp_path / name)).shape == (3 * 20 + 4, 36 + 4)
        assert str(tmp_path / name) in done.stdout
    assert np.asarray(Image.open(tmp_path / "trajectory.png")).shape[1] > 300


def test_train_on_a_folder_of_pictures(run_script, tmp_path):
    for subtype in ("girder", "arch"):
        (tmp_path / "pictures" / subtype).mkdir(parents=True)
        for index in range(21):
            picture = np.full((40, 120), 255, np.uint8)  # dark on white, other size: inverted and resized on the way in
            picture[18 + index % 4, 10:-10] = 0
            Image.fromarray(picture).save(tmp_path / "pictures" / subtype / f"{index:03d}.png")
    flags = [flag for flag in TINY if "per_type" not in flag]
    done = run_script(
        "train", *flags, f"--data={tmp_path / 'pictures'}", f"--workdir={tmp_path / 'run'}", "--max_updates=2"
    )
    assert done.returncode == 0, done.stderr
    assert "32 pictures of 2 sub-types" in done.stdout  # 16 of the 21 base pictures of each train
    assert "This run is finished: 2 updates" in done.stdout


def test_a_finish_that_the_epochs_are_too_few_for_is_noted(load_command, capsys):
    train = load_command("train")
    settings = TrainSettings(objective="equilibrium", finish_after=100, finish_decay=50, epochs=2)
    train.say_what_is_cut(settings, per_epoch=10)
    assert "ask for 150 updates, these pictures give 20 (--epochs=2 of 10); use --epochs=15" in capsys.readouterr().out
    train.say_what_is_cut(dataclasses.replace(settings, epochs=15), per_epoch=10)
    assert not capsys.readouterr().out


def test_a_sub_type_without_a_picture_to_learn_is_named(load_command):
    settings = {"network": "multiscale", "objective": "equilibrium", "conditional": True, "mirror": True}
    small = TrainSettings(**settings, height=32, width=64, per_type=4, split="all")  # so small that V piers stand askew
    with pytest.raises(InputError, match="--conditional: of v_pier_frame there is no mirror-symmetric picture"):
        load_command("train").load_data(small)


def test_settings_and_flags_that_cannot_be_are_refused(run_script, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert_refused(run_script("train", workdir, "--alpha=-1"), "train.py: error: --alpha=-1.0: must be a finite number")
    assert_refused(run_script("train", workdir, "--learning_rate=nan"), "--learning_rate=nan")
    assert_refused(run_script("train", workdir, "--alfa=1"), "train.py: error: Unknown", "'alfa'", "--help")
    assert_refused(run_script("train", workdir, "stray"), "unexpected argument 'stray'")
    assert_refused(run_script("train", workdir, f"--data={tmp_path / 'none'}"), "none", "no such folder")
    assert not (tmp_path / "run").exists()


def test_a_work_directory_of_another_network_is_refused_and_kept(trained, run_script):
    workdir, _ = trained
    before = (workdir / "settings.json").read_bytes()
    flags = [flag if "width" not in flag else "--width=64" for flag in TINY]
    assert_refused(run_script("train", *flags, f"--workdir={workdir}"), "--width=32, not 64")
    assert (workdir / "settings.json").read_bytes() == before


def test_an_unwritable_folder_is_refused(run_script, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_refused(
        run_script("train", *TINY, f"--workdir={tmp_path / 'file' / 'run'}"), "--workdir=", "cannot write there"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(run_script, tmp_path):
    tmp_path.chmod(0o500)
    assert_refused(run_script("train", *TINY, f"--workdir={tmp_path / 'run'}"), "--workdir=", "cannot write there")


def test_trajectory_refuses_frames_outside_and_a_missing_model(trained, run_script, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    refused = run_script("langevin_trajectory", f"--model={trained[0]}", "--steps=10", "--frames=0,10", out)
    assert_refused(refused, "--frames=0,10", "0 .. 9")
    assert_refused(
        run_script("langevin_trajectory", f"--model={tmp_path}", out), f"--model={tmp_path}", "train one first"
    )
    assert not (tmp_path / "out").exists()


def test_the_doctor_calls_a_healthy_run_healthy_and_names_a_damaged_checkpoint(trained, run_script, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    healthy = run_script("doctor", f"--workdir={workdir}")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "update 8, nobody trains it now; checkpoints 4, 8" in healthy.stdout and "Healthy." in healthy.stdout
    (workdir / "checkpoints" / "8" / "checksums.json").write_text("{}")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with lock.held(workdir):  # while a training goes on
        sick = run_script("doctor", f"--workdir={workdir}")
        (workdir / lock.LOCK_FILE).unlink()
    assert sick.returncode == 1 and "DAMAGED CHECKPOINTS: 1 of 2" in sick.stdout and "Change: " in sick.stdout
    assert f"trained by process {os.getpid()}" in sick.stdout and "Traceback" not in sick.stderr
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_a_work_directory_in_training_is_refused(trained, run_script):
    with lock.held(trained[0]):
        refused = run_script("train", f"--flagfile={trained[0] / 'run.cfg'}", f"--workdir={trained[0]}", "--epochs=3")
    assert_refused(refused, f"process {os.getpid()} on", "trains there")


@pytest.mark.parametrize("kind", ["binary", "pipe"])
def test_a_flag_file_that_is_none_is_refused_at_once(run_script, tmp_path, kind):
    path = tmp_path / "odd.cfg"
    os.mkfifo(path) if kind == "pipe" else path.write_bytes(bytes(range(128, 256)))
    assert_refused(
        run_script("train", f"--flagfile={path}", f"--workdir={tmp_path / 'run'}"), "train.py: error: --flag"
    )
    assert not (tmp_path / "run").exists()

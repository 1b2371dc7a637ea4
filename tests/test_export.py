"""A model folder made out of a work directory."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

import bridge_ebm
from bridge_ebm import checkpoint, data, models, runs
from bridge_ebm.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def workdir(tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    runs.run_training(tiny, data.procedural(tiny.height, tiny.width, per_type=tiny.per_type), folder, max_updates=1)
    return folder


def test_an_exported_model_is_the_model_without_its_training_and_names_no_path(workdir, tmp_path, run_script):
    out = tmp_path / "model"
    done = run_script("export_model", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0 and "MB" in done.stdout
    ours, theirs = bridge_ebm.load_model(workdir), bridge_ebm.load_model(out)
    assert ours.settings == theirs.settings
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if "training" in path.parts]
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]


def test_a_shipped_model_is_exported_under_the_update_it_was_saved_at(tmp_path):
    models.export("paper", tmp_path / "copy")
    assert checkpoint.newest_step(tmp_path / "copy") == checkpoint.newest_step(models.folder_of("paper"))
    assert bridge_ebm.load_model(tmp_path / "copy").settings == bridge_ebm.load_model("paper").settings


def test_a_folder_without_a_model_is_refused_under_the_flag_that_names_it(tmp_path, load_command):
    command, out = load_command("export_model"), str(tmp_path / "out")
    for levels in (False, True):
        asked = flagsaver.flagsaver(workdir="nothere", out=out, levels=levels)
        with asked, pytest.raises(InputError, match="--workdir=nothere: neither a shipped model"):
            command.main()
    shutil.copytree(models.folder_of("paper"), tmp_path / "run", ignore=shutil.ignore_patterns(checkpoint.FOLDER))
    with pytest.raises(InputError, match=r"--workdir=.*run: no checkpoint in"):
        models.export(tmp_path / "run", tmp_path / "out")


def test_an_export_overwrites_nothing(workdir, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"--out=.*full: there is something in it"):
        models.export(workdir, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_an_export_that_fails_or_is_killed_is_no_hindrance_to_the_next(tmp_path, monkeypatch):
    save, out = checkpoint.save, tmp_path / "copy"

    def full(*arguments):
        save(*arguments)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(OSError, match="No space left"):
            models.export("paper", out)
    assert list(out.iterdir()) == []
    (out / "export.partial" / "checkpoints").mkdir(parents=True)  # what a kill leaves
    models.export("paper", out)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "settings.json"]
    assert bridge_ebm.load_model(out).settings == bridge_ebm.load_model("paper").settings


def test_levels_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"model": {"levels": [0.0]}, "training": {}}))
    write = Path.write_text

    def full(self, text, **how):
        write(self, text[:5], **how)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            models.set_levels(tmp_path, [1.5])
    assert json.loads(path.read_text())["model"]["levels"] == [0.0]
    models.set_levels(tmp_path, [1.5])
    assert json.loads(path.read_text()) == {"model": {"levels": [1.5]}, "training": {}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def test_levels_are_refused_for_a_model_without_sub_types(workdir, tmp_path, run_script):
    done = run_script("export_model", f"--workdir={workdir}", f"--out={tmp_path / 'model'}", "--levels")
    assert done.returncode == 1 and "leave --levels out" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "model").exists()

"""Input that nobody expects: special files, links, names; the fuzz of tests/faults tries the contents."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from bridge_ebm import data, models, pictures, sketch
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.workdir import read_metrics

PICTURE = np.full((16, 32), 255, np.uint8)
PICTURE[8] = 0


def folder_of(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(root / name, format="png")
    return root


@pytest.mark.parametrize("name", ["橋/ü 🌉.png", "a/" + "x" * 250 + ".png", "<b>/'; rm -rf x.png", "%s{}/-x.PNG"])
def test_any_name_is_a_name(tmp_path, name):
    dataset = data.load_folder(folder_of(tmp_path, name), 16, 32)
    assert dataset.subtypes == (name.split("/")[0],) and dataset.images.shape == (1, 16, 32)


def test_links_are_followed_to_pictures_and_loops_are_refused(tmp_path):
    folder_of(tmp_path / "elsewhere", "a.png")
    root = tmp_path / "data"
    (root / "beam").mkdir(parents=True)
    (root / "beam" / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (root / "arch").symlink_to(tmp_path / "elsewhere")
    dataset = data.load_folder(root, 16, 32)
    assert dataset.subtypes == ("beam", "arch") and len(dataset.images) == 2  # a sub-type of ours comes first
    (root / "beam" / "b.png").symlink_to("b.png")
    with pytest.raises(InputError, match=r"b\.png: cannot be read \(Too many levels"):
        data.load_folder(root, 16, 32)
    (root / "beam" / "b.png").unlink()
    (root / "again").symlink_to(root)  # a folder that holds itself: no pictures lie in it
    with pytest.raises(InputError, match="again: no pictures in it"):
        data.load_folder(root, 16, 32)


@pytest.mark.parametrize("kind", ["pipe", "device", "endless device"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = folder_of(tmp_path, "beam/a.png") / "beam" / "b.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/null" if kind == "device" else "/dev/zero")
    with pytest.raises(InputError, match=r"b\.png: not a file; replace or remove it"):
        data.load_folder(tmp_path, 16, 32)
    with pytest.raises(InputError, match=r"--keep=.*b\.png: not a file"):
        sketch.read_held(path, 16, 32)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = folder_of(tmp_path, "beam/a.png") / "beam" / "a.png"

    def forbidden(*arguments, **named):  # root may read everything, so that a mode would not do
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pictures.Image, "open", forbidden)
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(Permission denied\)"):
        pictures.read_picture(path, 16, 32)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, AssertionError, NotImplementedError, RecursionError])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, monkeypatch, error):
    path = folder_of(tmp_path, "beam/a.png") / "beam" / "a.png"

    def broken(self):
        raise error("inside a decoder")

    monkeypatch.setattr(pictures.Image.Image, "load", broken)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(InputError, match=r"a\.png: not a whole PNG"):
        pictures.read_picture(path, 16, 32)


def test_names_too_long_or_with_line_breaks_give_one_line(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        data.load_folder(tmp_path / ("x" * 5000), 16, 32)
    (tmp_path / "two\nlines").mkdir()
    with pytest.raises(InputError) as caught:
        data.load_folder(tmp_path, 16, 32)
    assert str(caught.value).splitlines() == [str(caught.value)] and "two\\nlines" in str(caught.value)


@pytest.mark.parametrize("name", ["a\n--workdir=/", "a\0", "a\udcff", "a\r"])
def test_a_flag_file_gets_no_second_line_by_a_folder_s_name(name):
    with pytest.raises(InputError, match=r"--data=.*line break"):
        TrainSettings(data=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": "48"}, "height is '48'"),
        ({"height": -48}, "height is '-48'"),
        ({"channels": 10**6}, "1000000 channels are too many"),
        ({"height": 10**6, "width": 10**6}, "are too many"),
        ({"step_size": float("nan")}, "step_size is 'nan'"),
        ({"mirror": 1}, "mirror is '1'"),
        ({"reach": 10**8}, "reach is 100000000"),
        ({"network": "evil"}, "evil"),
        ({"subtypes": [3]}, "a sub-type is no text"),
        ({"precision": "float8"}, "float8"),
    ],
)
def test_settings_of_a_model_that_no_training_writes_are_refused(tmp_path, change, message):
    record = json.loads((models.PRETRAINED / models.list_models()[0] / "settings.json").read_text())
    record["model"] |= change
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        models.load_model(tmp_path)


def test_damaged_lines_of_metrics_cost_only_themselves(tmp_path):
    lines = ['{"step": 1, "loss": 2}', "{", "[" * 100_000, "3", '{"step": "2"}', '{"step": 3, "loss": "x"}', "\xff"]
    lines += ['{"step": 4, "loss": 1e999}', '{"loss": 3}', '{"step": 2, "loss": null}', '{"step": 5, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="latin-1")
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2}, {"step": 2, "loss": None}]

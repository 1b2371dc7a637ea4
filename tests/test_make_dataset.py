"""The command that writes the data set, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from bridge_ebm import bridges, data
from bridge_ebm.errors import InputError

SCRIPT = Path(__file__).parents[1] / "experiments" / "make_dataset.py"


def make(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=120)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("recipe", ["paper", "varied"])
def test_what_is_written_loads_as_what_was_drawn(tmp_path, recipe):
    out = tmp_path / "new" / "set"
    done = make("--out", str(out), "--recipe", recipe, "--per_type", "19", "--height", "24", "--width=96", "--seed=7")
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout and "152" in done.stdout
    assert "drawing" in done.stderr, "no progress bar"
    drawn, loaded = data.procedural(24, 96, recipe, 19, seed=7), data.load_folder(out, 24, 96)
    assert loaded.subtypes == drawn.subtypes == bridges.SUBTYPES
    for mine, theirs in zip(loaded[:3], drawn[:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    listing = json.loads((out / "dataset.json").read_text())
    assert {key: listing[key] for key in ("recipe", "height", "width", "seed", "per_type")} == {
        **{"recipe": recipe, "height": 24, "width": 96, "seed": 7, "per_type": 19}
    }
    files = sorted(out.rglob("*.png"))
    assert len(files) == len(listing["base"]) == 152
    assert not list(out.rglob("*.part*"))
    with Image.open(files[0]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (96, 24))
    if recipe == "paper":
        assert (out / "beam" / "w06_a25_rot+0.0_x1.000_y1.000.png").is_file()


@pytest.fixture
def refusal(load_command):
    """The one line with which the command refuses flags, in this process."""
    command = load_command("make_dataset")

    def of(*asked: str) -> str:
        with flagsaver.flagsaver():
            flags.FLAGS(["make_dataset", *asked])
            with pytest.raises(InputError) as caught:
                command.main()
        (line,) = str(caught.value).splitlines()
        return line

    return of


def test_a_folder_that_holds_something_is_left_alone(tmp_path, refusal):
    (tmp_path / "thesis.txt").write_text("years of work")
    line = error_line(make("--out", str(tmp_path), "--per_type", "1"))
    assert "--out" in line and "already holds files" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    assert "--out" in refusal(f"--out={tmp_path / 'thesis.txt'}", "--per_type=1")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "flag", ["--height=0", "--width=-4", "--per_type=0", "--per_type=1201", "--seed=-1", "--height=100000000"]
)
def test_settings_that_cannot_be_meant_are_named(tmp_path, refusal, flag):
    assert flag.split("=")[0] in refusal(f"--out={tmp_path / 'set'}", flag)
    assert not (tmp_path / "set").exists()


def test_unknown_flags_and_values_are_named(tmp_path, load_command):
    out = f"--out={tmp_path / 'set'}"
    done = make(out, "--colour=red")
    assert done.returncode != 0 and "colour" in done.stderr and "Traceback" not in done.stderr
    load_command("make_dataset")
    for asked, said in ((["--recipe=free", out], "recipe"), (["--height=tall", out], "height"), ([], "out")):
        with flagsaver.flagsaver(), pytest.raises(flags.Error, match=said):
            flags.FLAGS(["make_dataset", *asked])
    assert not (tmp_path / "set").exists()

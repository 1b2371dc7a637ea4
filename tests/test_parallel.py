"""A training on eight (simulated) devices is the training on one, and what passes between them is what should."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What eight_devices.py found."""
    command = [sys.executable, str(ROOT / "tests" / "eight_devices.py"), str(tmp_path_factory.mktemp("devices"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_train_as_one(report):
    assert report["eight_and_one"] < 1e-4 and report["losses"] < 1e-5
    assert report["buffer_shares"] == [[1, 4, 16, 32, 1]] and report["parameters_whole"]


def test_saved_on_eight_and_continued_on_two_is_one_training(report):
    assert report["eight_then_two_and_one"] < 1e-4


def test_regression_and_its_finish_train_alike_on_eight(report):
    assert report["finished"] < 1e-4


def test_draws_do_not_depend_on_the_number_of_devices(report):
    assert report["draws"] == {"whole": True, "rounded": True, "own": True}


def size(shape):
    kind, dimensions = re.fullmatch(r"([a-z]+\d+)\[([\d,]*)\]", shape).groups()
    return kind, math.prod(map(int, filter(None, dimensions.split(","))))


def split_up(traffic, parameters):
    """How many gradients are summed up, the sums' numbers beyond these, and everything that is no sum."""
    sums = [size(shape) for name, shapes in traffic if name == "all-reduce" for shape in shapes]
    assert {kind for kind, _ in sums} == {"f32"}
    gradients, means = divmod(sum(count for _, count in sums), parameters)
    others = [[name, *map(size, shapes)] for name, shapes in traffic if name != "all-reduce"]
    return gradients, means, others


@pytest.mark.parametrize(("choice", "pictures"), [("whole", [("f32", 16 * 32)]), ("own", [])])
def test_only_sums_and_drawn_pictures_pass_between_devices(report, choice, pictures):
    gradients, means, others = split_up(report["traffic"][choice], report["parameters"])
    assert gradients == 1
    assert means <= 6  # of the energies and their squares, of how far chains moved, how many were replaced
    # What a device receives: its share of the pictures that chains continue from.
    assert others == [["reduce-scatter", picture] for picture in pictures]


def test_the_finish_passes_its_pictures_as_bytes_and_its_energies(report):
    gradients, means, others = split_up(report["traffic"]["finished"], report["finished_parameters"])
    # The regression's before the finish; that one's, the finish's own, and that of what holds pictures in it.
    assert gradients == 4 and means <= 6
    half = 16 * 16
    assert sorted(others) == sorted(
        [
            ["all-gather", ("f32", 8)],  # energies of the real pictures
            ["all-gather", ("f32", 16)],  # and of the chains' ends
            ["reduce-scatter", ("u8", 2 * half)],  # what the 16 chains continue from, two a device
            ["reduce-scatter", ("u8", 2 * half)],  # and where those began
            ["all-gather", ("u8", 16 * half)],  # their ends, on the way to their places
            ["all-gather", ("u8", 16 * half)],  # and where those began
            ["all-gather", ("f32", 8 * half)],  # those that begin afresh
        ]
    )


def test_the_step_of_a_mesh_lowers_for_accelerators(report):
    assert report["lowered"] == [True, True, True]


def test_as_many_devices_work_as_can_share_out_the_batch(report):
    assert report["of_six"] == 4 and report["of_another"] == 1 and report["of_none"]

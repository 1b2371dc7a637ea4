"""What all commands share, run in this process: how they end, and what they leave alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_ebm import discovery, evaluation, plotting
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings


@pytest.fixture
def ending(load_command, monkeypatch, capsys):
    """A function that gives exit status and stderr of a command whose `main` raises a fault."""
    cli = load_command("evaluate").cli
    monkeypatch.setattr(cli.app, "run", lambda guarded, flags_parser: guarded(["evaluate.py"]))
    monkeypatch.setattr(cli.logging, "set_verbosity", lambda level: None)

    def end(fault):
        def main():
            raise fault

        with pytest.raises(SystemExit) as caught:
            cli.run(main)
        return caught.value.code, capsys.readouterr().err

    return end


def test_ctrl_c_ends_with_one_line_and_the_status_of_shells(ending):
    assert ending(KeyboardInterrupt()) == (130, "evaluate.py: stopped\n")
    code, line = ending(KeyboardInterrupt("by you: the same command goes on"))
    assert (code, line) == (130, "evaluate.py: stopped by you: the same command goes on\n")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--flagfile=none.cfg", "--flagfile=none.cfg: no such file"),
        ("--flagfile=.", "--flagfile=.: no such file"),
        ("--colour=red", "Unknown command line flag 'colour'"),
        ("--num=many", "--num=many"),
    ],
)
def test_flags_that_cannot_be_parsed_are_one_line(load_command, flag, said):
    cli = load_command("evaluate").cli
    with pytest.raises(SystemExit) as caught:
        cli.parsed(["evaluate.py", flag])
    line = caught.value.code
    assert line.startswith("evaluate.py: error: ") and said in line and "\n" not in line


def test_the_home_of_nobody_is_named(ending, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--model=~nobody_has_this_name/model"])
    with pytest.raises(RuntimeError) as caught:
        Path("~nobody_has_this_name/model").expanduser()
    code, line = ending(caught.value)
    assert code == 1 and line.count("\n") == 1
    assert "--model=~nobody_has_this_name/model: there is no such home directory" in line


def test_pictures_of_no_evaluation_of_ours_are_left_alone(load_command, monkeypatch, tmp_path):
    command = load_command("evaluate")
    mine = tmp_path / "samples" / "1.png"
    mine.parent.mkdir()
    Image.new("L", (8, 8)).save(mine)
    monkeypatch.setattr(command.flags.FLAGS["out"], "value", str(tmp_path))
    with pytest.raises(InputError, match="holds pictures of no evaluation of ours"):
        command.report_folder()
    assert mine.exists()
    (tmp_path / command.PAGE).touch()  # an earlier report, perhaps one that was stopped: these were its pictures
    drawn = np.zeros((2, 16, 32), np.uint8)
    assert command.write_samples(command.report_folder(), drawn) == ["samples/0000.png", "samples/0001.png"]
    assert sorted(path.name for path in mine.parent.iterdir()) == ["0000.png", "0001.png"]


def test_a_model_whose_pictures_are_gone_is_named_with_them(tmp_path):
    training = TrainSettings(data=str(tmp_path / "gone"), height=16, width=32)
    with pytest.raises(InputError, match=r"^--model: its own training pictures .*gone: no such folder"):
        evaluation.real_pictures(training)


def test_a_model_of_too_few_pictures_to_measure_against_is_told_so():
    training = TrainSettings(per_type=2, height=16, width=32)
    with pytest.raises(InputError, match=r"^--model: the 16 pictures .*\(procedural\) leave none for the test part"):
        evaluation.real_pictures(training)


def test_a_figure_of_many_chains_stays_within_what_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "MOST_PIXELS", 300)
    plotting.plot_frames(tmp_path / "many.png", np.zeros((1, 9, 16, 32, 1)), np.zeros((1, 9)), ["update 0"])
    with Image.open(tmp_path / "many.png") as drawn:
        assert max(drawn.size) <= 300


def test_records_are_read_up_to_a_line_that_is_none(tmp_path):
    for broken in (b'{"index": 2, "na', b"[3]", b"{}", b"7", b'{"index": null}', b"\xff\xfe"):
        path = tmp_path / "candidates.jsonl"
        path.write_bytes(b"".join(json.dumps({"index": k}).encode() + b"\n" for k in range(2)) + broken + b"\n")
        assert discovery.read_lines(path) == [{"index": 0}, {"index": 1}]

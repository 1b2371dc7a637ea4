"""One training at a time in a work directory."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from bridge_ebm import lock
from bridge_ebm.errors import InputError


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path):
    assert lock.owner(tmp_path) is None
    with lock.held(tmp_path):
        found = lock.owner(tmp_path)
        assert found is not None and found.pid == os.getpid() and found.host and found.since
        with pytest.raises(InputError, match=rf"--workdir=.*: process {os.getpid()} on .* since .* trains there"):
            lock.held(tmp_path).__enter__()
        assert lock.owner(tmp_path) == found
    assert lock.owner(tmp_path) is None and not list(tmp_path.iterdir())
    with lock.held(tmp_path):
        pass


def test_a_discovery_is_no_training(tmp_path):
    with lock.held(tmp_path, lock.DISCOVERY):
        assert lock.owner(tmp_path) is None
        message = rf"--out=.*: process {os.getpid()} on .* makes designs there; .* use a fresh --out"
        with pytest.raises(InputError, match=message):
            lock.held(tmp_path, lock.DISCOVERY).__enter__()
    assert not list(tmp_path.iterdir())


HOLDER = """
import sys, time
from pathlib import Path
from bridge_ebm import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_goes_with_a_killed_process(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"process {first.pid} on"):
            lock.held(tmp_path).__enter__()
        first.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["pid"] == first.pid  # its text stays, and stops nobody
    assert lock.owner(tmp_path) is None
    with lock.held(tmp_path):
        assert lock.owner(tmp_path).pid == os.getpid()


def test_looking_who_trains_never_gets_in_the_way_of_a_start(tmp_path, monkeypatch):
    waited = []
    (tmp_path / lock.LOCK_FILE).touch()
    with (tmp_path / lock.LOCK_FILE).open(encoding="utf-8") as looker:  # where `owner` is when it looks

        def wait(seconds):
            waited.append(seconds)
            fcntl.flock(looker, fcntl.LOCK_UN)

        monkeypatch.setattr(lock.time, "sleep", wait)
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert lock.owner(tmp_path) is None  # nor in that of another look
        with lock.held(tmp_path):
            assert lock.owner(tmp_path).pid == os.getpid()
    assert len(waited) == 1


def test_of_many_that_start_at_once_one_trains(tmp_path):
    inside, most, refused = [], [], []

    def compete():
        for _ in range(20):
            try:
                with lock.held(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except InputError:
                refused.append(1)

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 80


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "[" * 100_000])
def test_what_the_file_says_need_not_be_right(tmp_path, text):
    with lock.held(tmp_path):
        (tmp_path / lock.LOCK_FILE).write_text(text)
        assert lock.owner(tmp_path).host == "an unknown machine"


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="has no locks .* start no second training"), lock.held(tmp_path):
        assert lock.owner(tmp_path) is None

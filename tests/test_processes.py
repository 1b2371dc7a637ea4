"""Several real processes on this machine: they train as one, end when one of them dies, and others go on."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

from bridge_ebm import checkpoint, data, processes, runs
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.workdir import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SETTINGS = TrainSettings(
    network="multiscale",
    channels=2,
    height=16,
    width=32,
    per_type=1,
    split="all",
    batch_size=4,
    buffer_size=12,
    langevin_steps=2,
    step_size=0.01,
    gradient_clip=100.0,
    epochs=1000,
    save_every=3,
    sample_steps=1,
)


def start(count, workdir, *flags):
    """`count` processes of one training."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"--{field.name}={getattr(SETTINGS, field.name)}" for field in dataclasses.fields(SETTINGS)]
    # Unoptimised code is compiled faster.
    xla_flags = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
    environment = {**os.environ, "XLA_FLAGS": xla_flags}
    together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--workdir={workdir}", *flags]
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "experiments/train.py"), *settings, *together, f"--process_id={number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]


def test_a_process_dies_the_others_end_and_more_of_them_continue(tmp_path):
    workdir = tmp_path / "run"
    running = start(2, workdir)
    try:
        wait_until(lambda: (workdir / "checkpoints" / "3" / checkpoint.CHECKSUMS).exists(), running)
        running[1].send_signal(signal.SIGKILL)
        died = time.monotonic()
        out, error = running[0].communicate(timeout=120)
        assert time.monotonic() - died < 60
    finally:
        for process in running:
            process.kill()
        silent = running[1].communicate()[0]
    assert running[0].returncode == 1
    assert "Traceback" not in error
    assert "train.py: error: another process of this run has ended" in error
    assert said(out).startswith("8 pictures of 8 sub-types")
    assert not said(silent)

    stopped = checkpoint.newest_step(workdir)
    last = stopped + 2
    ended = [process.communicate(timeout=300) for process in start(4, workdir, f"--max_updates={last}")]
    assert f"This run is finished: {last} updates" in ended[0][0], ended
    assert not any(said(out) for out, _ in ended[1:])

    dataset = data.procedural(16, 32, per_type=1)
    alone = tmp_path / "alone"
    alone.mkdir()
    expected = runs.run_training(SETTINGS, dataset, alone, max_updates=last)
    found = runs.continue_state(SETTINGS, workdir)
    assert int(found.step) == last
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    rows = [[row["loss"] for row in read_metrics(folder)] for folder in (workdir, alone)]
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-6)


def said(out):
    """What our own code printed; Gloo says how many it met."""
    return "\n".join(line for line in out.splitlines() if not line.startswith("[Gloo]"))


def wait_until(met, running):
    for _ in range(1500):
        if met():
            return
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.2)
    raise AssertionError("not in five minutes")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator: missing"),
        (("host:1", None, None), "--num_processes, --process_id: missing"),
        (("host", 2, 0), "--coordinator=host: must be HOST:PORT"),
        (("host:1", 2, 2), "--process_id=2: must be from 0 to 1"),
    ],
)
def test_flags_of_processes_that_cannot_be_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        processes.join(*given)


def test_a_process_alone_is_the_first_and_waits_for_nobody(monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "TPU_ML_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    processes.join(None, None, None)
    processes.join("host:1", 1, 0)
    assert processes.is_first() and not processes.several() and not processes.joined()
    processes.wait_for_all("here")
    assert processes.merged([1, 2]) == [1, 2] and processes.share("abc") == "abc"
    assert processes.lost(ValueError("Gloo all-reduce failed: Connection closed by peer")) is None


def test_a_time_out_where_another_process_ended_is_not_taken_for_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "several", lambda: True)
    timed_out = TimeoutError("Timeout waiting at barrier 'save'.\nThe original error raised was: UNAVAILABLE")
    assert processes.lost(timed_out).startswith("another process of this run has ended")
    with pytest.raises(TimeoutError), runs._writing_explained(tmp_path):
        raise timed_out
    with pytest.raises(InputError, match="make room"), runs._writing_explained(tmp_path):
        raise OSError(28, "No space left on device")


def test_slurm_is_found_where_it_started_several_tasks(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *found, **_: asked.append(found))
    for number, tasks in (("0", "1"), ("1", "4")):
        monkeypatch.setenv("SLURM_PROCID", number)
        monkeypatch.setenv("SLURM_NTASKS", tasks)
        processes.join(None, None, None)
    assert asked == [(None, None, None)]

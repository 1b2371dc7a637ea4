"""The fault harness at a small size: what it does at full size is in BUILD_NOTES.md."""

import json
import subprocess
import sys

from conftest import ROOT


def test_the_training_stands_kills_damage_full_disks_divergence_and_broken_input(tmp_path):
    sizes = ["--kills=2", "--damages=30", "--disk=8", "--divergences=5", "--fuzz=200"]
    command = [sys.executable, str(ROOT / "tests" / "fault_harness.py"), *sizes, f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "faults.json").read_text())
    assert all(result["passed"] for result in results.values())
    assert results["kills"]["kills"] == 2 and results["kills"]["differences"] == []
    assert results["damages"]["cases"] >= 30
    assert results["divergences"]["recovered"] + results["divergences"]["explained"] == 5
    assert results["fuzz"]["read"] + results["fuzz"]["refused"] == 200

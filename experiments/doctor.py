"""Say whether a training is healthy, what is wrong with it, and what to change. It may be running meanwhile.

    python experiments/doctor.py --workdir=runs/default

reads the metrics, the events, the checkpoints and the lock of the work directory, and writes nothing. Takes a few
seconds. Exit status 0: healthy; 1: not.
"""

import os
import sys
from pathlib import Path

# Before JAX starts: reading files needs no accelerator, and the training beside may hold it (a TPU serves one process).
os.environ["JAX_PLATFORMS"] = "cpu"

import cli
from absl import flags

from bridge_ebm import health

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training.", required=True)


def main() -> None:
    """Print where the run stands and the findings."""
    run = health.read_run(Path(WORKDIR.value).expanduser())
    print("\n".join(health.summary(run)))
    findings = health.diagnose(run)
    for finding in findings:
        print(f"{finding.kind.upper()}: {finding.what}.\n  Change: {finding.change}.")
    if findings:
        sys.exit(1)
    print("Healthy." if run.rows else "Nothing to judge yet: no update is logged.")


if __name__ == "__main__":
    cli.run(main)

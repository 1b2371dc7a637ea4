"""Make faults, and see whether the training stands them.

    python tests/fault_harness.py --kills=100 --damages=1000 --disk=1000 --fuzz=5000 --divergences=20 --out=DIR

is the full size (about a quarter of an hour on one core); tests/test_faults.py runs a small one. Prints a table and
writes DIR/faults.json; exit status 1 if anything failed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import cli  # noqa: E402  before JAX starts: it sets what JAX prints
from faults import damages, disk, divergences, fuzz, kills, tiny  # noqa: E402

from bridge_ebm.files import write_atomically  # noqa: E402

# Kills come first: their trainings are forked from this process, which must not have started JAX by then.
PARTS = {"kills": kills, "damages": damages, "disk": disk, "divergences": divergences, "fuzz": fuzz}


def main() -> int:
    """Run the parts that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in PARTS:
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    cli.enable_compilation_cache()
    results = {}
    for name, part in PARTS.items():
        if count := getattr(asked, name):
            with tempfile.TemporaryDirectory(prefix="faults_", ignore_cleanup_errors=True) as folder, tiny.quiet():
                started = time.monotonic()
                results[name] = part.run(count, Path(folder)) | {"seconds": round(time.monotonic() - started, 1)}
            print(_row(name, results[name]), flush=True)
            write_atomically(asked.out / "faults.json", json.dumps(results, indent=1) + "\n")
    return 0 if all(result["passed"] for result in results.values()) else 1


def _row(name: str, result: dict) -> str:
    figures = ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("passed", "failures"))
    failures = "".join(f"\n    {failure}" for failure in result.get("failures", []))
    return f"{name:12} {'passed' if result['passed'] else 'FAILED'}  {figures}{failures}"


if __name__ == "__main__":
    sys.exit(main())

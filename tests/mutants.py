"""Put small faults into the core, one at a time, and see whether the tests notice.

    python tests/mutants.py --count=50 --out=DIR

takes that many of each of five modules, prints those that no test notices and a table, and writes DIR/mutants.jsonl.
Exit status 1 if tests/mutants_explained.json does not explain every one that is left alive. --module=structure takes
one module, --survivors=DIR/mutants.jsonl only what an earlier run left alive. Tests that take longer than three seconds
are left out, which can only leave more alive; --slow runs them too.

Each mutant is tested in a process forked from one that has imported all libraries, in a copy of the repository; tests
run in the order of the time they take, and the first that fails ends it. What JAX compiles is kept for the next.
"""

import argparse
import collections
import importlib
import json
import math
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

# The tests of each module: files, or functions of them.
TESTS = {
    "energy": ("test_energy.py",),
    "langevin": ("test_langevin.py",),
    "replay": ("test_replay.py",),
    "objectives": (
        "test_objectives.py",
        "test_regression.py::test_the_well_around_a_picture_has_no_error_close_to_it",
        "test_regression.py::test_target_speeds",
        "test_regression.py::test_the_margin_moves_black_and_white_and_no_grey",
        "test_regression.py::test_the_ink_margin_gives_greys_more_ink_in_proportion_and_none_more_than_white",
        "test_regression.py::test_the_finish_drops_the_highest_fakes_and_lets_go_at_the_floor",
        "test_regression.py::test_the_finish_compares_fakes_with_real_pictures_of_their_own_class",
        "test_regression.py::test_a_fake_whose_class_has_no_real_picture_is_left_out",
    ),
    "structure": ("test_verdicts.py", "test_structure.py"),
}
EXPLAINED = Path(__file__).with_name("mutants_explained.json")
_SLOW = 3.0  # seconds
_BUSY = 20  # times longer than its processor time a process may take on a machine that does other things


def main() -> int:
    """Run the mutants that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", choices=TESTS, action="append")
    parser.add_argument("--survivors", type=Path)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    mutants = _asked_for(asked)
    with tempfile.TemporaryDirectory(prefix="mutants_", ignore_cleanup_errors=True) as folder:
        _prepare(Path(folder))
        results = _try_all(mutants, Path(folder), asked.out / "mutants.jsonl", math.inf if asked.slow else _SLOW)
    return _summary(results)


def _asked_for(asked: argparse.Namespace) -> list[Any]:
    from mutations import chosen, mutants_of

    groups = [mutants_of(ROOT / "bridge_ebm" / f"{module}.py") for module in asked.module or TESTS]
    if asked.survivors is None:
        return [mutant for group in groups for mutant in chosen(group, asked.count, asked.seed)]
    rows = map(json.loads, asked.survivors.read_text(encoding="utf-8").splitlines())
    alive = {row["name"] for row in rows if row["outcome"] == "survived"}
    return [mutant for group in groups for mutant in group if mutant.name in alive]


def _prepare(folder: Path) -> None:
    """A copy of the repository, and in this process every library that the package needs, but nothing of itself."""
    for name in ("bridge_ebm", "tests", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", folder)
    # Before JAX starts. Unoptimised code is compiled three times as fast and does the same.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["PYTHONPATH"] = str(folder)
    os.chdir(folder)
    package = importlib.import_module("bridge_ebm")
    for module in pkgutil.iter_modules(package.__path__, "bridge_ebm."):
        importlib.import_module(module.name)
    for name in [name for name in sys.modules if name.split(".")[0] == "bridge_ebm"]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(path for path in sys.path if not path.startswith(str(ROOT / "tests")))]
    sys.path.remove(str(ROOT))


def _try_all(mutants: list[Any], folder: Path, log: Path, slow: float) -> list[dict[str, Any]]:
    """One mutant after the other, without the tests that take longer than `slow`; a line of `log` for each."""
    explained = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    known: dict[str, tuple[list[str], float]] = {}
    results = []
    with log.open("w", encoding="utf-8") as file:
        for mutant in mutants:
            if mutant.module not in known:
                known[mutant.module] = _measured(folder, mutant.module, slow)
            started = time.monotonic()
            outcome, test = _tried(mutant, folder, *known[mutant.module])
            result = {"module": mutant.module, "name": mutant.name, "kind": mutant.kind, "outcome": outcome}
            result |= {"test": test, "why": explained.get(mutant.name, ""), "seconds": time.monotonic() - started}
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            if outcome == "survived":
                print(f"survived  {mutant.name}  {result['why']}", flush=True)
    return results


def _measured(folder: Path, module: str, slow: float) -> tuple[list[str], float]:
    """The tests of a module but the slow ones, the quickest first, and how much processor time a mutant may take."""
    _forked(folder, list(TESTS[module]), [], 3600.0)  # fills the cache of what JAX compiles
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen = _forked(folder, list(TESTS[module]), [], 3600.0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if seen["failed"] or not seen["times"]:
        raise SystemExit(f"the tests of {module} fail without any mutant: {seen['failed'] or seen['ended']}")
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    quick = sorted((name for name, taken in seen["times"].items() if taken <= slow), key=seen["times"].get)
    print(f"{module}: {len(quick)} of {len(seen['times'])} tests, all take {used:.0f} s", flush=True)
    return quick, 60 + 3 * used


def _tried(mutant: Any, folder: Path, order: list[str], limit: float) -> tuple[str, str]:
    """What becomes of a mutant, and which test noticed it."""
    path = folder / "bridge_ebm" / f"{mutant.module}.py"
    original = path.read_text(encoding="utf-8")
    for stale in path.parent.glob(f"__pycache__/{mutant.module}.*"):
        stale.unlink()
    path.write_text(mutant.source, encoding="utf-8")
    try:
        seen = _forked(folder, list(TESTS[mutant.module]), order, limit)
    finally:
        path.write_text(original, encoding="utf-8")
    if seen["failed"]:
        return "killed", seen["failed"]
    return ("survived", "") if seen["ended"] == 0 else ("killed", f"ended with {seen['ended']}")


def _forked(folder: Path, tests: list[str], order: list[str], limit: float) -> dict[str, Any]:
    """Run tests in a process of their own: how long each took, which failed, and how the process ended."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX dislikes forks, and has not begun to compute yet
        process = os.fork()
    if not process:
        _in_child(lambda: _tests_run(folder, tests, order, report), limit)
    end = time.monotonic() + _BUSY * limit
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.02)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seen = json.loads(report.read_text()) if report.exists() else {"failed": "", "times": {}}
    return seen | {"ended": ended}


def _in_child(work: Callable[[], int], limit: float) -> None:
    """Does `work` in the forked process, without output and for `limit` seconds of processor time, and ends it."""
    status = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        status = work()
    finally:
        os._exit(status)


def _tests_run(folder: Path, tests: list[str], order: list[str], report: Path) -> int:
    import pytest

    class Watch:
        """Puts the tests in order and notes what becomes of them."""

        failed, times, last = "", collections.defaultdict(float), 0.0

        def pytest_collection_finish(self) -> None:
            self.last = time.process_time()

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            if order:
                items[:] = sorted((item for item in items if item.nodeid in order), key=lambda i: order.index(i.nodeid))

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            self.times[report.nodeid] += time.process_time() - self.last
            self.last = time.process_time()
            if report.failed and not self.failed:
                self.failed = report.nodeid

    sys.dont_write_bytecode = bool(order)  # a mutant's would be taken for the next one's
    watch = Watch()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={folder}"]
    status = pytest.main([*options, *(f"{folder}/tests/{test}" for test in tests)], plugins=[watch])
    report.write_text(json.dumps({"failed": watch.failed, "times": watch.times}))
    return int(status)


def _summary(results: list[dict[str, Any]]) -> int:
    """Print the table; 1 if a mutant is neither noticed nor explained."""
    print(f"{'':12} mutants  killed  explained  survived")
    for module in [*TESTS, "all"]:
        mine = [result for result in results if module in (result["module"], "all")]
        killed = sum(result["outcome"] == "killed" for result in mine)
        explained = sum(result["outcome"] == "survived" and bool(result["why"]) for result in mine)
        print(f"{module:12} {len(mine):7} {killed:7} {explained:10} {len(mine) - killed - explained:9}")
    return int(any(result["outcome"] == "survived" and not result["why"] for result in results))


if __name__ == "__main__":
    sys.exit(main())

"""Shared by all tests: strict promotion, a compilation cache of the session's own, and a run that trains in seconds."""

import importlib.metadata
import os
import tempfile

# Before JAX starts; the commands that the tests run inherit it. Many tests compile the same programs.
# Workers (pytest -n) inherit the cache of the process that starts them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="bridge_ebm_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# jaxlib 0.10 has two ways to compile fused operations, and the older takes a third of the time; later ones do not know
# the flag. With XLA_FLAGS set, to nothing say, the tests run what users run.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# Two workers on two cores: with two threads each the small products of the measures wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import gc
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest
from absl import flags

from bridge_ebm.settings import TrainSettings

ROOT = Path(__file__).parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")


# The files that take longest, which come first: no worker is left alone with one of them at the end.
LONGEST = ("parallel", "regression", "benchmark", "discover", "precision", "shipped", "coarse", "commands", "runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by file, `LONGEST` first; within a file, and among the others, the order stays."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from the libraries, millions of objects that stay, and call it less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def tiny() -> TrainSettings:
    """Settings of a run whose updates take milliseconds."""
    return TrainSettings(
        height=16,
        width=32,
        per_type=4,
        split="all",
        batch_size=8,
        buffer_size=24,
        langevin_steps=3,
        sample_steps=4,
        epochs=3,
    )


@pytest.fixture(scope="session")
def small(tiny: TrainSettings) -> TrainSettings:
    """A conditional run on halves whose finish begins after 3 updates."""
    return dataclasses.replace(
        tiny,
        network="multiscale",
        channels=8,
        conditional=True,
        mirror=True,
        objective="equilibrium",
        ema=0.9,
        warmup=2,
        norm_clip=1.0,
        finish_after=3,
        finish_chains=6,
        finish_arrival=4,
        buffer_size=18,
        restart=0.5,
        step_size=0.005,
        noise=0.0,
        gradient_clip=100.0,
    )


@pytest.fixture(scope="module")
def compiled_quickly():
    """Compile in half the time to code that runs slowly, in the commands that the tests run too: for modules of small
    networks and short chains.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def run_script():
    """Run `experiments/NAME.py` with flags as a user would; returns the finished process."""

    def run(name: str, *flags: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *flags]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def load_command(monkeypatch):
    """Import `experiments/NAME.py`, flags at their defaults. Both go with the test: commands share flag names."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    before = set(flags.FLAGS)
    loaded = ["cli"]

    def load(name: str) -> ModuleType:
        loaded.append(name)
        module = importlib.import_module(name)
        flags.FLAGS.mark_as_parsed()
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)
    for flag in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, flag)

"""The house rule that keeps the core readable: imports point one way."""

import ast

import pytest
from conftest import ROOT

PACKAGE = ROOT / "bridge_ebm"

# Modules that meet only as arguments, and what each must not import.
FORBIDDEN = {
    "bridges": {"jax", "flax", "optax"},
    "energy": {"langevin", "replay", "objectives", "train", "optax", "data"},
    "langevin": {"energy", "replay", "objectives", "train", "flax", "optax", "data"},
    "replay": {"energy", "objectives", "train", "flax", "optax", "data"},
    "objectives": {"energy", "langevin", "replay", "train", "flax", "optax", "data"},
    "train": {"runs", "workdir", "checkpoint", "plotting", "absl", "matplotlib"},
    "checkpoint": {"train", "models", "energy", "langevin", "data"},
    "plotting": {"train", "runs", "energy", "langevin"},
}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return names


@pytest.mark.parametrize("module", FORBIDDEN)
def test_imports_point_one_way(module):
    assert not imported(PACKAGE / f"{module}.py") & FORBIDDEN[module]


def test_the_package_never_imports_flags_or_experiments():
    for path in PACKAGE.glob("*.py"):
        assert not imported(path) & {"absl", "cli", "experiments"}, path.name

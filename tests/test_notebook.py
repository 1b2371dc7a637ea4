"""The notebook for Colab and for a clone: runs from top to bottom, and is saved with its outputs."""

import importlib.machinery
import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

PATH = ROOT / "notebooks" / "bridge_ebm.ipynb"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: nbformat.NotebookNode) -> list[tuple[str, ...]]:
    """What a cell puts out: the types of its outputs, and of the data in them."""
    return [(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs]


def streams(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernel that is this interpreter, whatever kernels the user has installed."""
    folder = tmp_path / "kernels" / "this"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return "this"


def test_notebook_runs_and_puts_out_what_is_saved(tmp_path, kernel):
    saved = nbformat.read(PATH, as_version=4)
    run = nbformat.from_dict(saved)
    resources = {"metadata": {"path": str(tmp_path)}}
    # A cell that raises ends this with its traceback.
    NotebookClient(run, timeout=300, kernel_name=kernel, resources=resources).execute()
    for ran, kept in zip(code_cells(run), code_cells(saved), strict=True):
        assert kinds(ran) == kinds(kept), kept.source
        assert streams(ran) == streams(kept)


def test_notebook_is_saved_run_small_and_clean():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == [*range(1, len(code_cells(notebook)) + 1)]
    showing = [cell for cell in code_cells(notebook) if re.search(r"^ *print\(|^(plt\.)?show\(", cell.source, re.M)]
    assert len(showing) == 6
    assert all(cell.outputs for cell in showing)
    text = "".join(streams(cell) for cell in code_cells(notebook))
    assert "831,553" in text and "704" in text
    assert not re.search(r"/home|/tmp|/root|[A-Z]:\\|Warning|Error|it/s", text)
    assert PATH.stat().st_size < 600_000


@pytest.mark.parametrize(("beside", "wanted"), [([], ["ADDRESS"]), ([str(ROOT)], [])])
def test_a_clone_beside_the_notebook_is_not_taken_for_the_package(tmp_path, monkeypatch, beside, wanted):
    cell = nbformat.read(PATH, as_version=4).cells[1].source.replace('SOURCE = ".."', 'SOURCE = "ADDRESS"')
    (tmp_path / "bridge_ebm").mkdir()
    found = importlib.machinery.PathFinder.find_spec("bridge_ebm", [str(tmp_path), *beside])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    installed = []
    exec(cell.replace("%pip install --quiet {SOURCE}", "installed.append(SOURCE)"), {"installed": installed})
    assert installed == wanted

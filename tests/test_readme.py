"""The README's library example runs as it stands, on a training of the size of a test."""

import re

import numpy as np
from conftest import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text()


def test_the_library_example_runs_and_is_short(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert np.asarray(Image.open("bridges.png")).shape == (2 * (48 + 4) + 4, 2 * (192 + 4) + 4)


def test_every_file_the_readme_names_exists():
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for command in re.findall(r"experiments/[\w/]+\.(?:py|cfg)", README):
        assert (ROOT / command).exists(), command

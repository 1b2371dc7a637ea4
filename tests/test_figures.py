import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import ROOT
from PIL import Image

from bridge_ebm import bridges, data, figures
from bridge_ebm.errors import InputError
from bridge_ebm.langevin import LangevinSettings
from bridge_ebm.runs import run_training


@pytest.fixture(scope="module")
def heights() -> np.ndarray:
    return figures.gas_heights(jax.random.key(0), 3000)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    names = ("through_arch", "fan_cable_stayed", "vertical_suspension")
    return data.to_unit(np.stack([bridges.render(name, 7, 24, 96) for name in names]))


def bowl(centre: jax.Array, images: jax.Array) -> jax.Array:
    return 0.5 * ((images - centre[None]) ** 2).sum((1, 2, 3))


def test_scale_height_of_air_is_that_of_the_standard_atmosphere():
    # R T / (M g) with the molar constants: 8.314463 x 288.15 / (0.0289644 x 9.80665).
    assert abs(figures.SCALE_HEIGHT - 8434.5) < 1


def test_sampled_gas_follows_the_boltzmann_law(heights):
    # The fit of 3000 molecules has a standard error of 1.8%; 1.63 / sqrt(N) is the 1% point of the distance's law.
    assert figures.fit_scale_height(heights) == pytest.approx(figures.SCALE_HEIGHT, rel=0.05)
    assert figures.distance_from_law(heights) < 1.63 / math.sqrt(len(heights)) + 0.006


def test_only_the_ground_is_a_wall(heights):
    assert heights.min() == 0
    assert (heights == 0).mean() < 0.012  # a Lindley walk of 0.01 scale heights a step rests there 0.7% of the time
    assert heights.max() < 0.8 * figures.COLUMN_HEIGHT


def test_energy_of_gas_is_mgh_over_kt():
    images = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(figures.gas_energy(images), [0, 10, 20], rtol=1e-6)


def test_distance_tells_a_gas_of_another_temperature():
    exact = -figures.SCALE_HEIGHT * np.log(1 - (np.arange(2000) + 0.5) / 2000)
    assert figures.distance_from_law(exact) == pytest.approx(0.5 / 2000, rel=1e-6)
    # The largest gap between 1 - exp(-h) and 1 - exp(-h / 1.2) is 1.2^-5 - 1.2^-6.
    assert figures.distance_from_law(1.2 * exact) == pytest.approx(1.2**-5 - 1.2**-6, abs=1e-3)


def test_pictures_lie_on_their_plane(pictures):
    plane = figures.plane_through(pictures)
    corners = figures.project(plane, pictures)
    np.testing.assert_allclose(figures.lift(plane, corners), pictures, atol=1e-5)
    np.testing.assert_allclose(corners.mean(axis=0), 0, atol=1e-6)


def test_plane_keeps_distances(pictures):
    corners = figures.project(figures.plane_through(pictures), pictures)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        expected = np.sqrt(((pictures[one] - pictures[other]) ** 2).mean())
        assert np.linalg.norm(corners[one] - corners[other]) == pytest.approx(expected, rel=1e-5)
    assert corners[1, 0] > corners[0, 0]
    assert corners[1, 1] == pytest.approx(corners[0, 1], abs=1e-6)


def test_projection_is_orthogonal(pictures):
    plane = figures.plane_through(pictures)
    images = np.random.default_rng(0).uniform(-1, 1, pictures.shape)
    residue = images - figures.lift(plane, figures.project(plane, images))
    np.testing.assert_allclose(np.einsum("nhwc,dhwc->nd", residue, plane.directions), 0, atol=1e-3)
    points = np.array([[0.3, -0.2], [0.0, 1.5]])
    np.testing.assert_allclose(figures.project(plane, figures.lift(plane, points)), points, atol=1e-6)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_pictures_on_one_line_are_refused(pictures, weights):
    first, step = pictures[0], pictures[1] - pictures[0]
    with pytest.raises(ValueError, match="on one line"):
        figures.plane_through(np.stack([first, first + weights[0] * step, first + weights[1] * step]))


def test_landscape_holds_the_energies_of_clipped_images_and_chains_that_descend(pictures):
    energy_fn = jax.tree_util.Partial(bowl, jnp.asarray(pictures[1]))
    settings = LangevinSettings(num_steps=50, step_size=0.1, noise=0.001, gradient_clip=1.0)
    drawn = figures.landscape(jax.random.key(0), pictures, energy_fn, settings, grid=9)
    plane = figures.plane_through(pictures)
    image = np.clip(figures.lift(plane, np.array([[drawn.across[7], drawn.up[2]]])), -1, 1)
    assert drawn.energies.shape == (9, 9)
    assert drawn.energies[2, 7] == pytest.approx(bowl(pictures[1], image).item(), rel=1e-4)
    assert (drawn.across[0] < drawn.corners[:, 0]).all() and (drawn.corners[:, 0] < drawn.across[-1]).all()
    # Every chain ends where E is least: at the second picture.
    np.testing.assert_allclose(drawn.paths[-1], np.tile(drawn.corners[1], (figures.CHAINS, 1)), atol=0.02)
    assert np.linalg.norm(drawn.paths[0] - drawn.corners[1], axis=1).mean() > 0.1
    assert (drawn.chain_energies[1] < 0.01 * drawn.chain_energies[0]).all()
    np.testing.assert_allclose(drawn.chain_energies[1], 0, atol=0.2)


def test_drawings_are_pictures_of_print_size(tmp_path: Path, heights, pictures):
    energy_fn = jax.tree_util.Partial(bowl, jnp.asarray(pictures[1]))
    drawn = figures.landscape(jax.random.key(0), pictures, energy_fn, LangevinSettings(2, 0.1, 0.001, 1.0), grid=5)
    figures.draw_gas(tmp_path / "fig1.png", heights)
    figures.draw_landscape(tmp_path / "fig2.png", drawn, ["one", "two", "three"])
    figures.draw_subtypes(tmp_path / "fig3.png")
    for path in sorted(tmp_path.iterdir()):
        page = np.asarray(Image.open(path).convert("L"))
        assert page.shape[1] >= 1200
        assert (page > 250).mean() > 0.1 and (page < 100).mean() > 0.005


def test_titles_name_every_subtype_in_order():
    assert tuple(figures.TITLES) == bridges.SUBTYPES


@pytest.mark.usefixtures("compiled_quickly")
def test_command_draws_the_figures_of_a_training(tmp_path, tiny):
    dataset = data.procedural(tiny.height, tiny.width, per_type=tiny.per_type)
    (tmp_path / "run").mkdir()
    run_training(tiny, dataset, tmp_path / "run")
    out = tmp_path / "out"
    program = (
        "import cli, figures; figures.MOLECULES, figures.STEPS, figures.FRAMES = 50, 5, (0, 2, 4); "
        "figures.write_curves(figures.Path('none.png'), 'shipped'); cli.run(figures.main)"
    )
    command = [sys.executable, "-c", program, f"--model={tmp_path / 'run'}", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT / "experiments", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(path.name for path in out.iterdir()) == [f"fig{k}.png" for k in range(1, 6)]
    assert lines[0].startswith("none.png: not drawn")
    assert len(lines) == 7
    assert any("fig6.png: not drawn, it needs --designs" in line for line in lines)


@pytest.fixture
def lines_of(load_command, monkeypatch, capsys):
    """The lines that experiments/figures.py prints in this process, with few molecules and no shipped model."""
    command = load_command("figures")
    monkeypatch.setattr(command, "MOLECULES", 50)
    monkeypatch.setattr(command.cli, "list_models", list)

    def run(**values: str) -> list[str]:
        with flagsaver.flagsaver(**values):
            command.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_command_without_a_model_draws_what_needs_none(tmp_path, lines_of):
    lines = lines_of(out=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fig1.png", "fig3.png"]
    assert "fig6.png: not drawn" in lines[-2]
    assert lines[-1] == "fig2.png, fig4.png, fig5.png: need --model=DIR, and no model is shipped yet"


def test_fig6_shows_the_designs_that_discovery_ranked_best_first(tmp_path, lines_of):
    (tmp_path / "designs").mkdir()
    records = []
    for k, name in enumerate(("deck_arch", "through_arch", "beam")):
        Image.fromarray(bridges.render(name, 5, 48, 192)).save(tmp_path / f"designs/{k}.png")
        rank = k + 1 if k < 2 else None
        records.append({"index": k, "file": f"designs/{k}.png", "name": f"a {name} that is new", "rank": rank})
    (tmp_path / "designs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = lines_of(out=str(tmp_path / "out"), designs=str(tmp_path))
    assert f"{tmp_path / 'out' / 'fig6.png'}: 2 new types, a deck_arch that is new the first" in lines
    page = np.asarray(Image.open(tmp_path / "out" / "fig6.png").convert("L"))
    assert page.shape[1] > 1500 and (page < 100).mean() > 0.005
    # The third column is empty: two designs, the beam is none.
    assert (page[:, : 2 * page.shape[1] // 3] < 100).mean() > 0.005 > (page[:, 2 * page.shape[1] // 3 :] < 100).mean()


def test_fig6_refuses_a_folder_without_designs(tmp_path, lines_of):
    (tmp_path / "designs.jsonl").write_text('{"index": 0, "file": "designs/0.png", "rank": null}\n')
    with pytest.raises(InputError, match=r"^--designs=.*: no designs in it; run .*$"):
        lines_of(out=str(tmp_path / "out"), designs=str(tmp_path))
    assert not (tmp_path / "out").exists()

"""Levels that give the sub-types of a model equal shares, and a model that has them."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import bridge_ebm
from bridge_ebm import balance, compose, data, langevin, runs
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.studio import open_studio

pytestmark = pytest.mark.usefixtures("compiled_quickly")
CENTRES, OFFSETS = (-0.4, 0.1, 0.3), (0.0, 2.0, -1.5)
CHAINS = langevin.LangevinSettings(10, 0.1, 0.0, 100.0)


def well(centre, offset, images):
    return 0.5 * ((images - centre) ** 2).sum((1, 2, 3)) + offset


def noise(key, count):
    return langevin.uniform_images(key, (count, 4, 6, 1))


KINDS = zip("abc", CENTRES, OFFSETS, strict=True)
WELLS = {name: Partial(well, jnp.float32(centre), jnp.float32(offset)) for name, centre, offset in KINDS}


def shares(levels):
    ends = langevin.compiled_sample(
        jax.random.key(1), noise(jax.random.key(2), 600), compose.lowest([*WELLS.values()], levels), CHAINS
    )
    above = np.stack([energy(ends) for energy in WELLS.values()]) - np.asarray(levels)[:, None]
    return np.bincount(above.argmin(0), minlength=3) / 600


def test_levels_give_every_sub_type_its_share():
    model = SimpleNamespace(
        settings=SimpleNamespace(subtypes=tuple(WELLS), mirror=False, step_size=0.1, langevin=CHAINS),
        energy=WELLS.get,
        start=noise,
        width=6,
    )
    assert shares(np.zeros(3)).min() == 0
    found = balance.levels(model, jax.random.key(0))
    assert np.all((shares(found) > 0.5 / 3) & (shares(found) < 2 / 3))
    model.settings.subtypes = ()
    with pytest.raises(ValueError, match="no sub-types"):
        balance.levels(model, jax.random.key(0))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    settings = TrainSettings(
        network="multiscale",
        objective="equilibrium",
        conditional=True,
        mirror=True,
        channels=2,
        height=16,
        width=32,
        per_type=4,
        split="all",
        batch_size=8,
        buffer_size=48,
        sample_steps=2,
        step_size=0.5,
        epochs=1,
    )
    folder = tmp_path_factory.mktemp("run")
    runs.run_training(settings, data.mirror_halves(data.procedural(16, 32, per_type=4)), folder, max_updates=1)
    return folder


def test_an_exported_model_with_levels_is_the_lowest_of_its_sub_types(workdir, tmp_path, run_script):
    out = tmp_path / "model"
    done = run_script("export_model", f"--workdir={workdir}", f"--out={out}", "--levels")
    assert done.returncode == 0, done.stderr
    model = bridge_ebm.load_model(out)
    levels, names = np.array(model.settings.levels), model.settings.subtypes
    assert len(levels) == len(names) == 8
    images = langevin.uniform_images(jax.random.key(0), (5, 16, 32, 1))
    whole = np.stack([model.energy(name)(images) for name in names]) - 2 * levels[:, None]
    np.testing.assert_allclose(model.energy()(images), whole.min(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(model.energy_of_each([None] * 5)(images), model.energy()(images))
    left = np.stack([model.half_energy(name)(images[:, :, :16]) for name in names]) - levels[:, None]
    np.testing.assert_allclose(model.half_energy()(images[:, :, :16]), left.min(0), rtol=1e-4, atol=1e-3)
    without = bridge_ebm.load_model(workdir)
    assert without.settings.levels == () and not np.allclose(without.energy()(images), model.energy()(images))
    np.testing.assert_array_equal(model.energy("beam")(images), without.energy("beam")(images))
    # What is composed of a model's energies takes them as energies of one function.
    studios = [open_studio(one) for one in (model, without)]
    np.testing.assert_array_equal(studios[0].levels, studios[1].levels)


@pytest.mark.parametrize("levels", [[1.0], ["a"] * 8, [float("nan")] * 8, 3])
def test_settings_with_odd_levels_are_refused(workdir, tmp_path, levels):
    record = json.loads((workdir / "settings.json").read_text())
    record["model"]["levels"] = levels
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"settings.json: not the settings of a model .*levels|iterable"):
        bridge_ebm.load_model(tmp_path)

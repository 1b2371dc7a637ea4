"""The models in the package draw what they promise."""

import jax
import numpy as np
import pytest
from scipy.spatial import distance

import bridge_ebm
from bridge_ebm import bridges, chain_report, data, metrics, structure
from bridge_ebm.corruptions import CORRUPTIONS


@pytest.mark.parametrize("name", bridge_ebm.list_models())
def test_a_shipped_model_loads_and_has_a_card(name):
    model = bridge_ebm.load_model(name)
    assert (bridge_ebm.models.PRETRAINED / name / "README.md").read_text().startswith(f"# {name}: ")
    # A cascade's start without a class would compile its coarse model's chain without one: test_coarse.py has it.
    begin = model.start(jax.random.key(0), 2, *model.settings.subtypes[:1])
    assert np.isfinite(model.energy()(begin)).all()


def test_the_default_model_comes_first_and_draws_the_sub_type_it_is_asked_for():
    assert bridge_ebm.list_models()[0] == "default"
    model = bridge_ebm.load_model("default")
    assert model.settings.subtypes == bridges.SUBTYPES and (model.height, model.width) == (48, 192)
    drawn = [model.draw(jax.random.key(1), 2, name) for name in bridges.SUBTYPES]
    images = data.to_uint8(np.concatenate(drawn))
    asked = [name for name in bridges.SUBTYPES for _ in range(2)]
    right = sum(nearest == name for nearest, name in zip(nearest_subtypes(images), asked, strict=True))
    assert right >= 15
    assert sum(structure.analyse(image).verdict == "A" for image in images) >= 13
    assert metrics.is_sharp(images).sum() >= 13  # of many .89 of the harps, all others


def test_the_default_model_keeps_real_pictures_and_puts_spoilt_ones_above_them():
    model = bridge_ebm.load_model("default")
    real = np.stack([bridges.render(name, 6, 48, 192) for name in bridges.SUBTYPES])  # a width of the test part
    before, after = chain_report.hold(model, real, bridges.SUBTYPES, 200, seed=0)
    assert metrics.ink_kept(before, after).mean() > 0.9
    assert nearest_subtypes(after) == list(bridges.SUBTYPES)
    energies = chain_report.energies_of(model, before, bridges.SUBTYPES)
    for spoil in CORRUPTIONS.values():
        assert (energies < chain_report.energies_of(model, spoil(before), bridges.SUBTYPES)).all()


def test_the_default_model_draws_many_sub_types_where_none_is_asked_for():
    images = data.to_uint8(np.asarray(bridge_ebm.load_model("default").draw(jax.random.key(2), 16)))
    assert len(set(nearest_subtypes(images))) >= 5
    assert sum(structure.analyse(image).verdict == "A" for image in images) >= 13


def test_the_large_model_begins_at_the_default_ones_pictures_and_draws_the_sub_type_it_is_asked_for():
    model = bridge_ebm.load_model("default_128x512")
    assert model.coarse.settings == bridge_ebm.load_model("default").settings
    drawn = [model.draw(jax.random.key(4), 1, name) for name in bridges.SUBTYPES]
    images = data.to_uint8(np.concatenate(drawn))
    assert images.shape == (8, 128, 512)
    right = sum(near == name for near, name in zip(nearest_subtypes(images), bridges.SUBTYPES, strict=True))
    assert right >= 7
    assert sum(structure.analyse(image).verdict == "A" for image in images) >= 7


def test_the_papers_network_draws_several_sub_types_sharp():
    images = data.to_uint8(np.asarray(bridge_ebm.load_model("paper").draw(jax.random.key(3), 16)))
    assert len(set(nearest_subtypes(images))) >= 3
    sharp = np.all(metrics.in_range(metrics.definition(images), 48, 192), axis=0)
    assert sharp.sum() >= 8  # of many .765 are


def nearest_subtypes(images):
    size = images.shape[1:]
    real = np.stack([bridges.render(name, width, *size) for name in bridges.SUBTYPES for width in range(0, 16, 3)])
    near = distance.cdist(metrics.features(images), metrics.features(real)).argmin(1)
    return [bridges.SUBTYPES[k // 6] for k in near]

"""Halves of pictures, and energies made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bridge_ebm
from bridge_ebm import data, mirror, recipes
from bridge_ebm.errors import InputError
from bridge_ebm.multiscale import MultiscaleEnergy, layers


def test_halves_of_an_unfolded_half_are_that_half_twice():
    left = jax.random.normal(jax.random.key(0), (3, 4, 5, 1))
    np.testing.assert_array_equal(mirror.halves(mirror.unfold(left)), jnp.concatenate([left, left]))


def test_both_halves_of_a_picture_count():
    def half_energy(x):
        return (x * jnp.arange(1.0, 4.0)[None, None, :, None]).sum((1, 2, 3))

    picture = jnp.arange(12.0).reshape(1, 2, 6, 1)
    np.testing.assert_allclose(
        mirror.energy_of_halves(half_energy, picture), 0 + 2 + 6 + 6 + 14 + 24 + 5 + 8 + 9 + 11 + 20 + 27
    )
    np.testing.assert_allclose(
        mirror.energy_of_halves(half_energy, picture[:, :, ::-1]), mirror.energy_of_halves(half_energy, picture)
    )


def test_a_chain_from_symmetric_noise_stays_symmetric():
    energy_fn = jax.tree_util.Partial(mirror.energy_of_halves, jax.tree_util.Partial(wavy))
    start = mirror.unfold(jax.random.uniform(jax.random.key(1), (2, 8, 12, 1), minval=-1))
    settings = bridge_ebm.LangevinSettings(50, 0.01, 0.0, 10.0)
    end = np.asarray(bridge_ebm.sample(jax.random.key(2), start, energy_fn, settings))
    assert np.abs(end - start).max() > 0.1
    np.testing.assert_array_equal(end, end[:, :, ::-1])


def wavy(x):
    return jnp.sin(3 * x).sum((1, 2, 3)) + (x[:, :, 1:] * x[:, :, :-1]).sum((1, 2, 3))


@pytest.mark.parametrize(("height", "width"), [(48, 192), (128, 512)])
def test_the_pictures_that_were_not_rotated_are_symmetric(height, width):
    dataset = data.procedural(height, width, per_type=30)
    rotations = np.tile([variant.rotation for variant in recipes.paper_plan(30)], 8)
    np.testing.assert_array_equal(mirror.centred(dataset.images)[0], rotations == 0)
    halves = data.mirror_halves(dataset)
    assert halves.images.shape == (2 * (rotations == 0).sum(), height, width // 2)
    count = len(halves.images) // 2
    np.testing.assert_array_equal(halves.labels[:count], halves.labels[count:])
    np.testing.assert_array_equal(halves.images[0], dataset.images[rotations == 0][0, :, : width // 2])


@pytest.mark.parametrize("columns", [-4, -1, 0, 3])
def test_a_symmetric_picture_off_the_middle_is_moved_back(columns):
    random = np.random.Generator(np.random.PCG64(0))
    half = random.integers(1, 256, (5, 4, 256), dtype=np.uint8)
    half[:, :, :10] = 0
    pictures = np.concatenate([half, half[:, :, ::-1]], axis=2)
    np.testing.assert_array_equal(mirror.centred(np.roll(pictures, columns, 2))[1], pictures)


def test_what_is_moved_out_is_lost_and_the_outermost_column_goes_on():
    picture = np.zeros((1, 2, 256), np.uint8)
    picture[:, :, 100:157] = 200  # mirrors onto itself about column 128, half a column right of the middle
    np.testing.assert_array_equal(mirror.centred(picture)[1], picture)
    np.testing.assert_array_equal(mirror.centred(picture[:, :, ::-1])[1], picture[:, :, ::-1])
    picture = np.roll(picture, 1, 2)
    picture[:, :, 0], picture[:, :, -1] = 9, 7
    moved = mirror.centred(picture)[1]
    np.testing.assert_array_equal(moved[:, :, :-1], picture[:, :, 1:])
    assert (moved[:, :, -1] == 7).all()
    blank = np.zeros((1, 4, 256), np.uint8)
    np.testing.assert_array_equal(mirror.centred(blank)[1], blank)


def test_of_the_papers_pictures_the_v_piers_are_moved_and_no_other():
    dataset = data.split(data.procedural(48, 192, per_type=300), "test")
    before = dataset.images[mirror.centred(dataset.images)[0]]
    part = data.symmetric_part(dataset)
    is_v = part.labels == part.subtypes.index("v_pier_frame")
    np.testing.assert_array_equal(part.images[~is_v], before[~is_v])
    np.testing.assert_array_equal(part.images[is_v][:, :, :-1], before[is_v][:, :, 1:])
    apart = np.abs(part.images.astype(float) - part.images[:, :, ::-1]).sum((1, 2)) / (2 * part.images.sum((1, 2)))
    assert apart.max() < 0.115  # about the middle itself


def test_a_data_set_without_symmetric_pictures_is_refused():
    lopsided = np.zeros((3, 8, 16), np.uint8)
    lopsided[:, :, :3] = 255
    dataset = data.Dataset(lopsided, np.zeros(3, np.int32), np.zeros(3, np.int32), ("beam",))
    with pytest.raises(InputError, match="--mirror: none of these pictures"):
        data.mirror_halves(dataset)


@pytest.mark.parametrize(
    ("height", "filters_of_each"), [(16, [8, 8]), (48, [8, 16, 32, 32]), (128, [8, 16, 32, 64, 64])]
)
def test_the_network_has_a_layer_for_every_scale(height, filters_of_each):
    assert [filters for filters, _ in layers(height, 8)] == filters_of_each


def test_the_network_judges_each_picture_alone_and_by_its_class():
    network = MultiscaleEnergy(8, 3)
    images = jax.random.normal(jax.random.key(0), (4, 16, 24, 1))
    variables = network.init(jax.random.key(1), images)
    embeds = [name for name in variables["params"] if name.startswith("Embed")]
    assert len(embeds) == 2
    for k, name in enumerate(embeds):  # classes are alike before training
        leaf = variables["params"][name]["embedding"]
        variables["params"][name]["embedding"] = jax.random.normal(jax.random.key(k), leaf.shape)
    labels = jnp.array([0, 1, 2, 3])
    together = network.apply(variables, images, labels)
    alone = [network.apply(variables, images[k : k + 1], labels[k : k + 1])[0] for k in range(4)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=2e-5)
    np.testing.assert_array_equal(network.apply(variables, images), network.apply(variables, images, 3))
    assert np.abs(network.apply(variables, images, 0) - network.apply(variables, images, 1)).min() > 1e-3


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_a_network_of_limited_reach_sees_neighbourhoods_only(reach):
    network = MultiscaleEnergy(4, reach=reach)
    images = jax.random.normal(jax.random.key(0), (1, 48, 64, 1))
    variables = network.init(jax.random.key(1), images)
    slope = jax.jit(jax.grad(lambda images: network.apply(variables, images).sum()))
    far = slope(images.at[0, 20, 30].add(1.0)) - slope(images)
    rows, columns = np.nonzero(np.abs(far[0, :, :, 0]) > 1e-7)
    distance = max(abs(rows - 20).max(), abs(columns - 30).max())
    # Pixels interact if some field of 2^(reach + 1) + 1 pixels square holds both.
    assert 2**reach <= distance <= 2 ** (reach + 1)


def test_the_default_network_has_1_6_million_parameters():
    variables = jax.eval_shape(lambda: MultiscaleEnergy(64, 8).init(jax.random.key(0), jnp.zeros((1, 48, 96, 1))))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 1_564_225

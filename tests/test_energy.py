import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_ebm import energy, langevin
from bridge_ebm.langevin import uniform_images
from bridge_ebm.models import Model
from bridge_ebm.multiscale import MultiscaleEnergy
from bridge_ebm.settings import TrainSettings
from bridge_ebm.workdir import model_settings

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Table 1 of the paper: parameters of each layer at 48 x 192, statistics included.
TABLE_1 = {
    "Conv_0": 832,
    "BatchNorm_0": 128,
    "Conv_1": 18_496,
    "BatchNorm_1": 256,
    "Conv_2": 73_856,
    "BatchNorm_2": 512,
    "Conv_3": 147_584,
    "BatchNorm_3": 512,
    "Dense_0": 589_952,
    "Dense_1": 129,
}


def variables_of(network, height=48, width=192, seed=0):
    """Variables with nothing left at its initial zero or one."""
    variables = energy.init_variables(network, jax.random.key(seed), height, width)
    leaves, tree = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(seed + 1)
    moved = [leaf + rng.normal(0, 0.05, leaf.shape).astype(np.float32) for leaf in leaves]
    return {**variables, "params": jax.tree.unflatten(tree, moved)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_table_1_row_by_row():
    variables = energy.init_variables(energy.PaperEnergy(), jax.random.key(0), 48, 192)
    rows = {name: count(variables["params"][name]) for name in TABLE_1}
    for name, stats in variables["batch_stats"].items():
        rows[name] += count(stats)
    assert rows == TABLE_1
    assert count(variables["params"]) == 831_553
    assert count(variables["batch_stats"]) == 704
    assert count(variables) == sum(TABLE_1.values()) == 832_257


@pytest.mark.parametrize(("height", "width"), [(48, 192), (128, 512), (50, 101)])
def test_any_size_gives_one_finite_energy_per_image(height, width):
    network = energy.PaperEnergy()
    variables = variables_of(network, height, width)
    energies = network.apply(variables, uniform_images(jax.random.key(0), (3, height, width, 1)))
    assert energies.shape == (3,) and energies.dtype == jnp.float32
    assert np.isfinite(energies).all() and np.ptp(energies) > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_energy_of_an_image_ignores_the_rest_of_its_batch(precision):
    network = energy.PaperEnergy(precision)
    variables = variables_of(network)
    images = uniform_images(jax.random.key(2), (4, 48, 192, 1))
    together = network.apply(variables, images)
    others = images.at[1:].set(-1.0)
    np.testing.assert_allclose(network.apply(variables, others)[0], together[0], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x)[0]))(images)
    assert np.abs(gradient[0]).max() > 0
    assert np.abs(gradient[1:]).max() == 0


def test_batch_norm_is_a_scale_and_shift_that_training_does_not_move():
    network = energy.PaperEnergy()
    variables = variables_of(network)
    images = uniform_images(jax.random.key(3), (2, 48, 192, 1))
    _, changed = network.apply(variables, images, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    # Folding scale / sqrt(1 + 1e-3) and the shift into the convolutions leaves the energies as they were.
    folded = jax.tree.map(np.asarray, variables["params"])
    for layer in range(4):
        norm, conv = folded[f"BatchNorm_{layer}"], folded[f"Conv_{layer}"]
        scale = norm["scale"] / np.sqrt(1 + 1e-3)
        conv["kernel"], conv["bias"] = conv["kernel"] * scale, conv["bias"] * scale + norm["bias"]
        norm["scale"], norm["bias"] = np.full_like(scale, np.sqrt(1 + 1e-3)), np.zeros_like(scale)
    np.testing.assert_allclose(
        network.apply({**variables, "params": folded}, images), network.apply(variables, images), rtol=2e-5
    )


def test_gradient_agrees_with_finite_differences():
    network = energy.PaperEnergy()
    variables = variables_of(network, 16, 32)
    image = 0.5 * uniform_images(jax.random.key(4), (1, 16, 32, 1))
    direction = jax.random.normal(jax.random.key(5), image.shape)

    def along(t):
        return network.apply(variables, image + t * direction)[0]

    step = 1e-2
    numeric = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (12 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=2e-3)


def test_initial_weights_are_those_of_keras():
    params = energy.init_variables(energy.PaperEnergy(), jax.random.key(0), 48, 192)["params"]
    kernel = params["Conv_2"]["kernel"]
    bound = np.sqrt(6 / (9 * 64 + 9 * 128))  # Glorot uniform
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.01)
    assert not params["Conv_2"]["bias"].any() and not params["Dense_0"]["bias"].any()


def test_a_picture_is_halved_four_times_whatever_its_size():
    """Strides of 2, as the size of the first dense layer shows."""
    for height, width, places in ((16, 32, 1 * 2), (48, 192, 3 * 12), (50, 101, 4 * 7)):
        start = functools.partial(energy.init_variables, energy.PaperEnergy(), height=height, width=width)
        shapes = jax.eval_shape(start, jax.random.key(0))
        assert shapes["params"]["Dense_0"]["kernel"].shape == (128 * places, 128)


def test_the_last_layers_weights_are_those_of_keras_too():
    params = energy.init_variables(energy.PaperEnergy(), jax.random.key(0), 16, 32)["params"]
    for name, inputs, outputs in (("Conv_0", 25, 25 * 32), ("Dense_0", 256, 128), ("Dense_1", 128, 1)):
        kernel, bound = params[name]["kernel"], np.sqrt(6 / (inputs + outputs))
        assert 0.9 * bound < np.abs(kernel).max() <= bound, name
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.15, err_msg=name)


def test_every_product_of_the_network_has_its_precision(monkeypatch):
    calls = []
    conv, dot_general = energy.conv, energy.dot_general

    def noted_conv(x, w, stride, precision):
        calls.append(("conv", precision))
        return conv(x, w, stride, precision)

    def noted_dot(precision):
        def noted(*arguments, **named):
            calls.append(("dot", precision))
            return dot_general(precision)(*arguments, **named)

        return noted

    monkeypatch.setattr(energy, "conv", noted_conv)
    monkeypatch.setattr(energy, "dot_general", noted_dot)
    network = energy.PaperEnergy("bfloat16")
    jax.eval_shape(functools.partial(energy.init_variables, network, height=16, width=32), jax.random.key(0))
    assert calls == [("conv", "bfloat16")] * 4 + [("dot", "bfloat16")] * 2


def test_settings_name_the_network():
    settings = TrainSettings(network="multiscale", channels=3, reach=2, precision="bfloat16")
    assert energy.make_network(settings, 5) == MultiscaleEnergy(3, 5, 2, "bfloat16")
    assert energy.make_network(settings) == MultiscaleEnergy(3, 0, 2, "bfloat16")
    assert energy.make_network(TrainSettings(precision="bfloat16")) == energy.PaperEnergy("bfloat16")
    assert energy.PaperEnergy() == energy.PaperEnergy("float32")


def test_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no energy network 'paper' with 8 classes: use 'paper' or 'multiscale'"):
        energy.make_network(TrainSettings(), num_classes=8)
    with pytest.raises(ValueError, match="no energy network 'none' with 0 classes"):
        energy.make_network(dataclasses.make_dataclass("Settings", ["network"])("none"))


def test_an_energy_is_a_pytree_of_its_weights_and_labels():
    network = MultiscaleEnergy(channels=2, num_classes=3)
    variables = variables_of(network, 16, 32)
    images, labels = uniform_images(jax.random.key(1), (2, 16, 32, 1)), jnp.array([2, 0])
    for given in (None, labels):
        function = energy.energy_function(network, variables["params"], {}, given)
        np.testing.assert_array_equal(function(images), network.apply(variables, images, given))
        weights = len(jax.tree.leaves(variables["params"]))
        assert len(jax.tree.leaves(function)) == weights + (given is not None)
    paper = variables_of(energy.PaperEnergy(), 16, 32)
    function = energy.energy_function(energy.PaperEnergy(), paper["params"], paper["batch_stats"])
    np.testing.assert_array_equal(function(images), energy.PaperEnergy().apply(paper, images))


def test_all_classes_and_new_weights_share_one_compiled_chain():
    def model(seed):
        network = energy.make_network(settings, len(settings.subtypes))
        variables = variables_of(network, 16, 16, seed)  # the network sees halves
        return Model(variables["params"], {}, settings)

    training = TrainSettings(
        network="multiscale",
        objective="equilibrium",
        conditional=True,
        mirror=True,
        channels=2,
        height=16,
        width=32,
        sample_steps=3,
    )
    settings = model_settings(training, ("a", "b"))
    first = model(0).draw(jax.random.key(0), 2, "a")
    compiled = langevin.compiled_sample._cache_size()
    others = [model(seed).draw(jax.random.key(0), 2, name) for seed in (0, 1) for name in ("a", "b", None)]
    assert langevin.compiled_sample._cache_size() == compiled
    np.testing.assert_array_equal(others[0], first)
    assert all((other != first).any() for other in others[1:])

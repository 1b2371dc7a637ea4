import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax import export, lax

from bridge_ebm import energy, langevin
from bridge_ebm.convolution import conv, conv_general_dilated, conv_input, conv_kernel, product

# (height, width, channels in, channels out, kernel, stride, batch): Table 1's shapes at both sizes, odd ones, odd
# batches.
pytestmark = pytest.mark.usefixtures("compiled_quickly")
SHAPES = [
    (48, 192, 1, 4, 5, 2, 3),
    (24, 96, 8, 6, 3, 2, 1),
    (64, 256, 4, 4, 3, 2, 2),
    (13, 27, 3, 4, 3, 2, 5),
    (7, 9, 2, 3, 3, 1, 3),
    (8, 8, 2, 3, 4, 2, 3),
    (12, 15, 2, 3, 3, 3, 2),
]


def reference(x, w, stride):
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(shape):
    height, width, c, o, k, stride, batch = shape
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((batch, height, width, c), (k, k, c, o)))
    g = jnp.asarray(rng.normal(size=jax.eval_shape(lambda: reference(x, w, stride)).shape), jnp.float32)
    return x, w / (k * np.sqrt(c)), g, stride


def assert_close(ours, wanted, tolerance):
    assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
    assert float(jnp.linalg.norm(ours - wanted) / jnp.linalg.norm(wanted)) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_the_three_maps_are_the_library_convolution_and_its_transposes(shape, precision, tolerance):
    x, w, g, stride = arrays(shape)

    @jax.jit
    def both(x, w, g):
        y, pull_back = jax.vjp(lambda x, w: reference(x, w, stride), x, w)
        ours = conv_input(g, w, x.shape[1:3], stride, precision), conv_kernel(x, g, len(w), stride, precision)
        return (conv(x, w, stride, precision), *ours), (y, *pull_back(g))

    for mine, theirs in zip(*both(x, w, g), strict=True):
        assert_close(mine, theirs, tolerance)


@pytest.mark.parametrize("filters", [8, 128])
def test_bfloat16_rounds_the_factors_and_nothing_else(filters):
    x, w, _, stride = arrays((24, 48, 4, filters, 3, 2, 2))
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, w)]
    ours = jax.jit(conv, static_argnums=(2, 3))(x, w, stride, "bfloat16")
    assert_close(ours, reference(*rounded, stride), 1e-6)
    assert float(jnp.linalg.norm(ours - reference(x, w, stride)) / jnp.linalg.norm(ours)) > 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_second_order_gradients_agree_with_the_library(shape):
    x, w, _, stride = arrays(shape)

    def penalty(convolve):
        """A loss on the input gradient, as in gradient regression; it needs every second derivative."""

        def loss(x, w):
            field = jax.grad(lambda x: jnp.sum(jnp.tanh(convolve(x, w))))(x)
            return jnp.sum(jnp.sin(field))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, w)

    ours = penalty(lambda x, w: conv(x, w, stride, "float32"))
    for mine, theirs in zip(ours, penalty(lambda x, w: reference(x, w, stride)), strict=True):
        assert_close(mine, theirs, 1e-5)


@pytest.mark.parametrize(
    ("precision", "tolerance", "size", "batch"), [("float32", 1e-5, (48, 192), 3), ("bfloat16", 2e-2, (128, 512), 1)]
)
def test_the_whole_network_agrees_with_plain_flax(monkeypatch, size, batch, precision, tolerance):
    """Energies, their gradient in the images and that one's in every kind of weight; no weight or statistic is left
    at its initial zero or one.
    """
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    from peers.flax_peer import PlainEnergy

    images = langevin.uniform_images(jax.random.key(1), (batch, *size, 1))
    variables = energy.init_variables(energy.PaperEnergy(), jax.random.key(0), *size)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(2)
    moved = [leaf * rng.uniform(0.7, 1.4, leaf.shape).astype(np.float32) for leaf in leaves]
    variables = jax.tree.unflatten(tree, [leaf + 0.05 * (leaf == 0) for leaf in moved])

    def derivatives(network):
        def energy_and_field(params, x):
            energies, field = langevin.energy_and_gradient(
                lambda x: network.apply({**variables, "params": params}, x), x
            )
            return jnp.sum((1e3 * field) ** 2), (energies, field)

        gradient = jax.jit(jax.grad(energy_and_field, has_aux=True))
        second, (energies, field) = gradient(variables["params"], images)
        weights = ("Conv_0", "kernel"), ("Conv_1", "bias"), ("Conv_3", "kernel"), ("BatchNorm_0", "scale")
        weights += ("BatchNorm_1", "bias"), ("Dense_0", "kernel")
        return energies, field, *(second[layer][name] for layer, name in weights)

    ours = derivatives(energy.PaperEnergy(precision))
    with jax.numpy_rank_promotion("allow"):  # Flax's layers rely on it
        plain = derivatives(PlainEnergy())
    for mine, theirs in zip(ours, plain, strict=True):
        assert_close(mine, theirs, tolerance)


def test_bfloat16_really_rounds_its_factors():
    a = jnp.full((1, 1), 1 + 2**-10)
    assert product(a, a, "ab", "bfloat16")[0, 0] == 1.0
    assert product(a, a, "ab", "float32")[0, 0] > 1.0


def test_other_convolutions_are_refused():
    convolve = conv_general_dilated("float32")
    with pytest.raises(ValueError, match="only square kernels"):
        convolve(
            jnp.zeros((1, 8, 8, 1)),
            jnp.zeros((3, 3, 1, 1)),
            (2, 1),
            "SAME",
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            dimension_numbers=None,
            feature_group_count=1,
        )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accelerators_get_the_library_convolution_and_the_cpu_no_dilated_one(platform, precision):
    network = energy.PaperEnergy(precision)
    variables = energy.init_variables(network, jax.random.key(0), 48, 192)
    images = jnp.zeros((2, 48, 192, 1))

    def text(platform):
        field = jax.jit(jax.grad(lambda x: network.apply(variables, x).sum()))
        return export.export(field, platforms=(platform,))(images).mlir_module()

    there = text(platform)
    convolutions = re.findall(r"stablehlo\.convolution.*", there)
    assert len(convolutions) == 8  # four layers, forwards and backwards
    assert "lhs_dilate = [2, 2]" in there
    # Accelerators round the factors of a float32 product unless they are asked not to.
    assert all(("HIGHEST" in one) == (precision == "float32") for one in convolutions)
    products = re.findall(r"stablehlo\.dot_general.*", there)
    assert products and all(("HIGHEST" in one) == (precision == "float32") for one in products)
    assert "lhs_dilate = [2, 2]" not in text("cpu")


def test_no_bfloat16_product_of_the_cpu_sums_over_the_rows_of_its_first_factor():
    """XLA's CPU code does such products in float32, at half the speed."""
    x, w, _, stride = arrays((24, 48, 4, 128, 3, 2, 2))  # so many filters that the forward map is a product too

    def loss(x, w):
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(conv(x, w, stride, "bfloat16"))))(x) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    text = export.export(gradient, platforms=("cpu",))(x, w).mlir_module()
    sums = re.findall(r"dot_general.*contracting_dims = \[(\d)\] x", text)
    assert len(sums) >= 6 and set(sums) == {"1"}

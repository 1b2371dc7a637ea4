"""Strided convolution as three bilinear maps that are each other's derivatives, fast on every platform.

With SAME padding and stride s, of images x [B, H, W, C], kernel w [k, k, C, O] and outputs g [B, ceil(H/s),
ceil(W/s), O]:

    conv(x, w) -> g        conv_input(g, w) -> x        conv_kernel(x, g) -> w

Each is linear in both arguments, and the derivative of any of them is another of the three, so derivatives of every
order run through the same three pieces of code. That matters on the CPU, where XLA's library convolution is fast
forwards but not in the dilated form that automatic differentiation makes of it (a Langevin step takes three times
as long, see BUILD_NOTES.md): there `conv_input` and `conv_kernel` are one matrix product each, around patches that
are cut out and put back by strided slices. On other platforms all three are the library's.

Precision 'bfloat16' rounds the factors of every product to bfloat16 and accumulates in float32; the library's
convolutions round what they give to bfloat16, too. 'float32' asks for whole float32 products, which GPUs and TPUs
would otherwise round (JAX's default there).
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

Precision = Literal["float32", "bfloat16"]

# The name under which `jax.checkpoint` policies know what a convolution, forwards or backwards, gives.
CONVOLVED = "convolved"

# On a CPU, from how many filters on a bfloat16 product pays for the patches it needs; with fewer the library's float32
# convolution, which needs none, is as exact and faster (0.08 against 0.15 ms an image for Table 1's first layer).
_MANY_FILTERS = 128

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, w: jax.Array, stride: int, precision: Precision) -> jax.Array:
    """SAME convolution of x [B, H, W, C] with w [k, k, C, O], float32 [B, ceil(H/stride), ceil(W/stride), O]."""
    return lax.platform_dependent(
        x,
        w,
        cpu=partial(_cpu_conv, stride=stride, precision=precision),
        default=partial(_library_conv_rounded, stride=stride, precision=precision),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_input(g: jax.Array, w: jax.Array, size: tuple[int, int], stride: int, precision: Precision) -> jax.Array:
    """The transpose of `conv` in its images: from g [B, h, w, O] to float32 [B, *size, C]."""

    def library(g, w):
        shape = jax.ShapeDtypeStruct((len(g), *size, w.shape[2]), g.dtype)
        return jax.linear_transpose(lambda x: _library_conv_rounded(x, w, stride, precision), shape)(g)[0]

    return lax.platform_dependent(
        g, w, cpu=partial(_patch_conv_input, size=size, stride=stride, precision=precision), default=library
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_kernel(x: jax.Array, g: jax.Array, kernel_size: int, stride: int, precision: Precision) -> jax.Array:
    """The transpose of `conv` in its kernel: from x [B, H, W, C] and g [B, h, w, O] to float32 [k, k, C, O]."""

    def library(x, g):
        shape = jax.ShapeDtypeStruct((kernel_size, kernel_size, x.shape[3], g.shape[3]), x.dtype)
        return jax.linear_transpose(lambda w: _library_conv_rounded(x, w, stride, precision), shape)(g)[0]

    return lax.platform_dependent(
        x,
        g,
        cpu=partial(_patch_conv_kernel, kernel_size=kernel_size, stride=stride, precision=precision),
        default=library,
    )


conv.defvjp(
    lambda x, w, stride, precision: (conv(x, w, stride, precision), (x, w)),
    lambda stride, precision, saved, g: (
        checkpoint_name(conv_input(g, saved[1], saved[0].shape[1:3], stride, precision), CONVOLVED),
        conv_kernel(saved[0], g, saved[1].shape[0], stride, precision),
    ),
)
conv_input.defvjp(
    lambda g, w, size, stride, precision: (conv_input(g, w, size, stride, precision), (g, w)),
    lambda size, stride, precision, saved, x: (
        conv(x, saved[1], stride, precision),
        conv_kernel(x, saved[0], saved[1].shape[0], stride, precision),
    ),
)
conv_kernel.defvjp(
    lambda x, g, kernel_size, stride, precision: (conv_kernel(x, g, kernel_size, stride, precision), (x, g)),
    lambda kernel_size, stride, precision, saved, w: (
        conv_input(saved[1], w, saved[0].shape[1:3], stride, precision),
        conv(saved[0], w, stride, precision),
    ),
)


# Which axes of a and b a product sums over: a b, a b^T and a^T b. Passing a transpose instead of naming the axis makes
# XLA's CPU code leave the fast bfloat16 path (half the speed, see BUILD_NOTES.md).
_AXES = {"ab": (1, 0), "abT": (1, 1), "aTb": (0, 0)}
Form = Literal["ab", "abT", "aTb"]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(a: jax.Array, b: jax.Array, form: Form, precision: Precision) -> jax.Array:
    """The matrix product a b, a b^T or a^T b of two matrices, float32; its derivatives are such products again."""
    exactly = lax.Precision.HIGHEST
    if precision == "bfloat16":
        a, b, exactly = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), lax.Precision.DEFAULT
    in_a, in_b = _AXES[form]
    return lax.dot_general(a, b, (((in_a,), (in_b,)), ((), ())), exactly, preferred_element_type=jnp.float32)


def _product_derivatives(form: Form, precision: Precision, saved: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    if form == "ab":
        return product(g, b, "abT", precision), product(a, g, "aTb", precision)
    if form == "abT":
        return product(g, b, "ab", precision), product(g, a, "aTb", precision)
    return product(b, g, "abT", precision), product(a, g, "ab", precision)


product.defvjp(lambda a, b, form, precision: (product(a, b, form, precision), (a, b)), _product_derivatives)


def conv_general_dilated(precision: Precision) -> Any:
    """`conv` with the signature that `flax.linen.Conv(conv_general_dilated=...)` calls; other convolutions raise
    ValueError.
    """

    def convolve(x, w, strides, padding, *, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, **_):
        plain = set(lhs_dilation) == set(rhs_dilation) == {1} and feature_group_count == 1 and padding == "SAME"
        if not (plain and strides[0] == strides[1] and w.shape[0] == w.shape[1]):
            raise ValueError(
                "only square kernels with one stride, SAME padding, no dilation and no groups are supported"
            )
        return checkpoint_name(conv(x, w, strides[0], precision), CONVOLVED)

    return convolve


def dot_general(precision: Precision) -> Any:
    """`product` with the signature that `flax.linen.Dense(dot_general=...)` calls, for inputs [M, K]."""

    def dot(a, b, dimension_numbers, **_):
        return product(a, b, "ab", precision)

    return dot


def _library_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    exactly = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=_LAYOUT, precision=exactly)


def _library_conv_rounded(x: jax.Array, w: jax.Array, stride: int, precision: Precision) -> jax.Array:
    if precision == "float32":
        return _library_conv(x, w, stride)
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _library_conv(x, w, stride).astype(jnp.float32)


def _cpu_conv(x: jax.Array, w: jax.Array, stride: int, precision: Precision) -> jax.Array:
    if precision == "float32":
        return _library_conv(x, w, stride)
    if w.shape[3] >= _MANY_FILTERS:
        return _patch_conv(x, w, stride)
    return _library_conv(_rounded(x), _rounded(w), stride)


def _rounded(x: jax.Array) -> jax.Array:
    """x as bfloat16 has it, in float32: products of such factors are those of bfloat16, added up in float32."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _patch_conv(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    patches = _rounded_patches(x, len(w), stride)
    flat = product(patches.reshape(-1, patches.shape[-1]), w.reshape(-1, w.shape[-1]), "ab", "bfloat16")
    return flat.reshape(*patches.shape[:3], -1)


def _patch_conv_input(
    g: jax.Array, w: jax.Array, size: tuple[int, int], stride: int, precision: Precision
) -> jax.Array:
    patches = product(g.reshape(-1, g.shape[-1]), w.reshape(-1, w.shape[-1]), "abT", precision)
    return _add_patches(patches.reshape(*g.shape[:3], *w.shape[:3]), size, stride)


def _patch_conv_kernel(x: jax.Array, g: jax.Array, kernel_size: int, stride: int, precision: Precision) -> jax.Array:
    cut = _rounded_patches if precision == "bfloat16" else _cut_patches
    patches = cut(x, kernel_size, stride)
    # The transpose of what is wanted, g^T patches and not patches^T g: XLA's fast bfloat16 product cannot sum over the
    # rows of its first factor, g is small enough to be turned round, and `conv` cuts the same patches.
    turned = lax.transpose(g, (3, 0, 1, 2)).reshape(g.shape[-1], -1)
    flat = product(turned, patches.reshape(-1, patches.shape[-1]), "ab", precision)
    return flat.reshape(g.shape[-1], kernel_size, kernel_size, x.shape[-1]).transpose(1, 2, 3, 0)


def _padding(length: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """How many zeros SAME padding puts before and after a side of `length` pixels."""
    total = max((-(-length // stride) - 1) * stride + kernel_size - length, 0)
    return total // 2, total - total // 2


def _cut_patches(x: jax.Array, k: int, stride: int) -> jax.Array:
    """Under every output pixel the k x k patch it sees, rows first as in a kernel: [B, H, W, C] -> [B, h, w, k k C].

    Cut along one axis and then along the other: 2 k slices of longer runs instead of k^2.
    """
    (top, bottom), (left, right) = _padding(x.shape[1], k, stride), _padding(x.shape[2], k, stride)
    # Written into zeros rather than padded: XLA's CPU code asks at every element of a pad where it is.
    zeros = jnp.zeros((len(x), top + x.shape[1] + bottom, left + x.shape[2] + right, x.shape[3]), x.dtype)
    padded = lax.dynamic_update_slice(zeros, x, (0, top, left, 0))
    return _cut_axis(_cut_axis(padded, 2, k, stride), 1, k, stride)


def _cut_axis(x: jax.Array, axis: int, k: int, stride: int) -> jax.Array:
    """Cut `axis` of padded x [B, H, W, C] into overlapping pieces of k, which go beside the channels."""
    count = (x.shape[axis] - k) // stride + 1
    taps = [lax.slice_in_dim(x, t, t + stride * (count - 1) + 1, stride, axis) for t in range(k)]
    return jnp.concatenate(taps, axis=-1)


def _rounded_patches(x: jax.Array, k: int, stride: int) -> jax.Array:
    """`_cut_patches` in bfloat16. XLA's CPU code copies bfloat16 by way of float32, so it is shown integers instead:
    twice as fast a Langevin step on jax 0.10."""
    bits = lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
    return lax.bitcast_convert_type(_cut_patches(bits, k, stride), jnp.bfloat16)


def _add_patches(patches: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """The transpose of cutting patches: add patches [B, h, w, k, k, C], rows first, up into images [B, *size, C].

    Pixels are gathered by their phase (position modulo the stride): all pixels of one phase see the same taps, so
    each phase is a sum of shifted slices, and the phases are interleaved at the end.
    """
    k, (height, width) = patches.shape[3], patches.shape[1:3]
    top, left = _padding(size[0], k, stride)[0], _padding(size[1], k, stride)[0]
    zero = jnp.zeros((), patches.dtype)

    def shifted(p: int, q: int, rows: int, columns: int) -> jax.Array:
        return lax.pad(patches[:, :, :, p, q], zero, ((0, 0, 0), (rows, -rows, 0), (columns, -columns, 0), (0, 0, 0)))

    def phase(a: int, b: int) -> jax.Array:
        total = jnp.zeros((len(patches), height, width, patches.shape[5]), patches.dtype)
        for p in range((a + top) % stride, k, stride):
            for q in range((b + left) % stride, k, stride):
                total += shifted(p, q, (p - a - top) // stride, (q - b - left) // stride)
        return total

    rows = [jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    full = jnp.stack(rows, axis=2).reshape(len(patches), height * stride, width * stride, patches.shape[5])
    return full[:, : size[0], : size[1]]

"""Energies: Flax Linen modules from images float32 [B, H, W, 1] in [-1, 1] to energies float32 [B], low where an
image looks real.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from bridge_ebm.convolution import CONVOLVED, Precision, conv, dot_general
from bridge_ebm.multiscale import MultiscaleEnergy

# Table 1: (filters, kernel size) of the four strided convolutions.
PAPER_LAYERS = ((32, 5), (64, 3), (128, 3), (128, 3))

_GLOROT = nn.initializers.glorot_uniform()


class NetworkSettings(Protocol):
    """What names a network: the settings of a training and of a model both do."""

    @property
    def network(self) -> str:
        """'paper' or 'multiscale'."""

    @property
    def channels(self) -> int:
        """Of the multiscale network's first layer."""

    @property
    def reach(self) -> int:
        """Convolutions of a multiscale network that sees neighbourhoods only (0: all, and the whole picture)."""

    @property
    def precision(self) -> Precision:
        """Of the network's products."""


class PaperEnergy(nn.Module):
    """Table 1 of arXiv 2401.17657: 831,553 trainable parameters and 704 statistics at 48 x 192.

    Batch norm as the paper's notebook really ran it: it never sees `training=True`, so its moving mean stays 0 and
    its moving variance 1, and each layer is a learned scale and shift divided by sqrt(1 + 1e-3). An image's energy
    is therefore independent of the rest of its batch. The statistics are kept (collection `batch_stats`) so that
    the table holds. Initial weights are Keras's: Glorot uniform kernels, zero biases.

    The output is the energy itself (low = real). The notebook's network of the same shape outputs the score -E; its
    weights give our energies once its last layer (kernel and bias) is negated.

    Any height and width work; the first dense layer takes its size from them.
    """

    precision: Precision = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Energies float32 [B] of `images` [B, H, W, 1]."""
        product = dot_general(self.precision)
        x = images
        for index, (filters, size) in enumerate(PAPER_LAYERS):
            scale, shift = _BatchNorm(filters, name=f"BatchNorm_{index}")()
            x = nn.swish(_Convolution(filters, size, self.precision, name=f"Conv_{index}")(x, scale, shift))
        x = x.reshape(len(x), -1)
        x = nn.swish(nn.Dense(128, kernel_init=_GLOROT, dot_general=product)(x))
        return nn.Dense(1, kernel_init=_GLOROT, dot_general=product)(x)[:, 0]


class _BatchNorm(nn.Module):
    """The weights and statistics of `nn.BatchNorm`, as the scale and the shift [filters] of one that sees no batch."""

    filters: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        gamma = self.param("scale", nn.initializers.ones, (self.filters,))
        beta = self.param("bias", nn.initializers.zeros, (self.filters,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.filters,)).value
        var = self.variable("batch_stats", "var", jnp.ones, (self.filters,)).value
        scale = gamma * jax.lax.rsqrt(var + 1e-3)
        return scale, beta - mean * scale


class _Convolution(nn.Module):
    """The weights of `nn.Conv`, strides 2, with a scale and a shift [filters] after it put into them: the gradient
    then has one sum over the pixels for each channel instead of three, 20% of its time on a CPU.
    """

    filters: int
    size: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _GLOROT, (self.size, self.size, x.shape[-1], self.filters))
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        shift, scale = (bias * scale + shift)[None, None, None], scale[None, None, None]
        return checkpoint_name(conv(x, kernel * scale, 2, self.precision), CONVOLVED) + shift


def make_network(settings: NetworkSettings, num_classes: int = 0) -> nn.Module:
    """The energy network that settings name (of a training or of a model); raises ValueError for an unknown name.

    `num_classes` sub-types can be asked for; 0 for an unconditional network.
    """
    if settings.network == "paper" and num_classes == 0:
        return PaperEnergy(settings.precision)
    if settings.network == "multiscale":
        return MultiscaleEnergy(settings.channels, num_classes, settings.reach, settings.precision)
    raise ValueError(f"no energy network {settings.network!r} with {num_classes} classes: use 'paper' or 'multiscale'")


def energy_function(network: nn.Module, params: Any, batch_stats: Any, labels: jax.Array | None = None) -> Any:
    """The energy with its weights: a function of images [B, H, W, 1] to energies [B].

    `labels` (int32, one for all images or [B]) names the class for a network that knows classes. The function is a
    `jax.tree_util.Partial`, a pytree of weights and labels, so `jit` takes it as an argument and new ones compile
    nothing.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    named = {} if labels is None else {"labels": labels}
    return jax.tree_util.Partial(_apply(network), variables, **named)


@cache
def _apply(network: nn.Module) -> Callable[..., Any]:
    """One function for all networks that are equal: methods of two that are not the same object never are, and `jit`
    would compile each anew.
    """
    return network.apply


def init_variables(network: nn.Module, key: jax.Array, height: int, width: int) -> dict[str, Any]:
    """Fresh variables (`params`, and `batch_stats` where the network has them) for images [B, height, width, 1]."""
    return dict(network.init(key, jnp.zeros((1, height, width, 1), jnp.float32)))

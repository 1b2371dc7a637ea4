"""The energy network that a user should train: sees every scale at once, and knows the sub-types.

Table 1's shape without batch norm, with more channels, and an energy read out at every scale besides the dense head:
fine members have a short way to the energy, so its gradient is sharp.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from bridge_ebm.convolution import Precision, conv_general_dilated, dot_general

# Rows that the last convolution leaves: the dense head then sees 3 to 5 rows at any size.
_LAST_ROWS = 5
_DENSE = 128
# Energies are sums over thousands of pixels; the head starts at that size.
HEAD_SCALE = 96.0


def layers(height: int, channels: int, reach: int = 0) -> Sequence[tuple[int, int]]:
    """(filters, kernel size) of the strided convolutions for pictures `height` pixels high: 4 at 48, 5 at 128, or the
    first `reach` of these (all, where there are no more).

    Filters double from layer to layer, but for the last.
    """
    count = 1
    while -(-height // 2**count) > _LAST_ROWS:
        count += 1
    sizes = [(channels * 2 ** min(k, max(count - 2, 0)), 5 if k == 0 else 3) for k in range(count)]
    return sizes[:reach] if reach else sizes


class MultiscaleEnergy(nn.Module):
    """Energies of images, of the sub-type asked for: 1.6 M parameters at 48 x 96.

    Every convolution is followed by a scale and a shift of each channel that depend on the class (0 ... num_classes -
    1, or num_classes for "no class"), and swish. The read-out is a 1 x 1 convolution to one channel, summed over the
    picture; the sum comes first here, which is the same function and needs no product per pixel.

    With `reach` k > 0 there are k convolutions and no dense layer: the energy is a sum over places, of a function of
    the 2^(k + 1) + 1 pixels square about each (and of the place). It then prefers what is right everywhere nearby, and
    does not see whether the parts were ever met together.
    """

    channels: int = 64
    num_classes: int = 0
    reach: int = 0
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Energies float32 [B] of `images` [B, H, W, 1], `labels` int32 [B] or one for all (None: no class)."""
        convolve, product = conv_general_dilated(self.precision), dot_general(self.precision)
        exactly = jax.lax.Precision.HIGHEST  # of the two read-outs, which are a millionth of the work
        labels = jnp.broadcast_to(self.num_classes if labels is None else labels, len(images))
        x, read_out = images, jnp.zeros((len(images), 1), jnp.float32)
        for filters, size in layers(images.shape[1], self.channels, self.reach):
            x = nn.Conv(filters, (size, size), strides=2, conv_general_dilated=convolve)(x)
            x = nn.swish(_modulate(x, labels, self.num_classes))
            read_out += nn.Dense(1, use_bias=False, precision=exactly)(x.sum((1, 2)))
        x = x.reshape(len(x), -1)
        if not self.reach:
            x = nn.swish(nn.Dense(_DENSE, dot_general=product)(x))
        return (read_out + HEAD_SCALE * nn.Dense(1, precision=exactly)(x))[:, 0]


def _modulate(x: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """x [B, h, w, C] scaled and shifted, channel by channel, as `labels` [B] say; the identity before training."""
    if num_classes == 0:
        return x
    embed = nn.Embed(num_classes + 1, 2 * x.shape[-1], embedding_init=nn.initializers.zeros)
    # Looked up by `embed(labels)` a label out of range gives NaN, a check that XLA's CPU code repeats for each pixel.
    chosen = embed.embedding.at[labels].get(mode="clip")
    scale, shift = jnp.split(chosen[:, None, None], 2, axis=-1)
    return x * (1 + scale) + shift

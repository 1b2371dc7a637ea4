"""A model of closed form for the tests of discovery: every sub-type is a bowl around one of its rendered bridges."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from bridge_ebm import bridges, data
from bridge_ebm.langevin import LangevinSettings

STIFFNESS = 10.0
WIDTH_INDEX = 7
OWN = {"footbridge": "through_arch"}  # a sub-type that the paper does not know


class Settings(NamedTuple):
    subtypes: tuple[str, ...] = bridges.SUBTYPES
    mirror: bool = True
    langevin: LangevinSettings = LangevinSettings(40, 0.03, 0.0, 1e3)


class StandIn(NamedTuple):
    settings: Settings = Settings()
    height: int = 48
    width: int = 192
    params: Any = ()
    batch_stats: Any = ()
    coarse: Any = None

    def without_levels(self):
        return self

    def energy(self, subtype=None):
        return Partial(well, self.centre(subtype))

    def half_energy(self, subtype=None):
        return Partial(well, self.centre(subtype)[:, :, : self.width // 2])

    def start(self, key, count, subtype=None):
        """Where chains begin if there is a coarse model: a grey of each sub-type's own."""
        grey = -0.5 + 0.1 * self.settings.subtypes.index(subtype)
        return jnp.full((count, self.height, self.width, 1), grey)

    def centre(self, subtype):
        picture = bridges.render(OWN.get(subtype, subtype) or "beam", WIDTH_INDEX, self.height, self.width)
        # The author's pictures are a pixel or two off their own mirror image; bowls of halves cannot be.
        left = data.to_unit(picture)[None, :, : self.width // 2]
        return jnp.concatenate([left, left[:, :, ::-1]], axis=2)


def well(centre, images):
    return 0.5 * STIFFNESS * ((images - centre) ** 2).sum((1, 2, 3))

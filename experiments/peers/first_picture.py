"""A process of its own: from nothing to the first picture. Prints the time at which it was written.

    python first_picture.py PICTURE HEIGHT WIDTH

A fresh network of Table 1, a chain of 60 steps, one PNG.
"""

import sys
import time
from pathlib import Path

import cli
import jax
import numpy as np

import bridge_ebm
from bridge_ebm.plotting import save_png, sheet


def main() -> None:
    """Sample and save."""
    path, height, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cli.enable_compilation_cache()
    network = bridge_ebm.energy.PaperEnergy()
    init = jax.jit(bridge_ebm.energy.init_variables, static_argnums=(0, 2, 3))
    energy_fn = jax.tree_util.Partial(network.apply, init(network, jax.random.key(0), height, width))
    start = bridge_ebm.langevin.uniform_images(jax.random.key(1), (1, height, width, 1))
    images = bridge_ebm.sample(jax.random.key(2), start, energy_fn, bridge_ebm.LangevinSettings(num_steps=60))
    save_png(path, sheet(np.asarray(images), columns=1))
    print(time.time())


if __name__ == "__main__":
    main()

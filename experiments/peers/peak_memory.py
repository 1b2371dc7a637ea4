"""A process of its own: two compiled training steps in float32. Prints its peak resident memory in MiB.

python peak_memory.py BATCH HEIGHT WIDTH STEPS BUFFER
"""

import resource
import sys

import cli
import jax
import jax.numpy as jnp
import numpy as np

from bridge_ebm import train
from bridge_ebm.settings import TrainSettings


def main() -> None:
    """Train two updates on empty pictures."""
    batch, height, width, steps, buffer = (int(text) for text in sys.argv[1:])
    cli.enable_compilation_cache()
    settings = TrainSettings(batch_size=batch, height=height, width=width, langevin_steps=steps, buffer_size=buffer)
    state, step = jax.jit(train.init_state, static_argnums=0)(settings), train.make_train_step(settings)
    images = jnp.asarray(np.zeros((batch, height, width), np.uint8))
    for _ in range(2):
        state, metrics = step(state, images)
        jax.block_until_ready(metrics)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    main()

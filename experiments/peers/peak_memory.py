"""A process of its own: two compiled training steps in float32. Prints its peak resident memory in MiB.

python peak_memory.py BATCH HEIGHT WIDTH STEPS BUFFER
"""

import resource
import sys

import cli
import jax
import jax.numpy as jnp

from bridge_ebm.data import Examples
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import init_state
from bridge_ebm.train import make_train_step


def main() -> None:
    """Train two updates on empty pictures."""
    batch, height, width, steps, buffer = (int(text) for text in sys.argv[1:])
    cli.enable_compilation_cache()
    settings = TrainSettings(batch_size=batch, height=height, width=width, langevin_steps=steps, buffer_size=buffer)
    state, step = init_state(settings), make_train_step(settings)
    examples = Examples(jnp.zeros((batch, height, width), jnp.uint8), jnp.zeros(batch, jnp.int32))
    for _ in range(2):
        state, metrics = step(state, examples)
        jax.block_until_ready(metrics)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    main()

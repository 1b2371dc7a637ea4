"""Our own network, sampler and compiled training step, as users run them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bridge_ebm
from bridge_ebm import contrastive, data, state, train
from bridge_ebm.settings import TrainSettings
from peers import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, Peer


def make_peer(variables: dict[str, Any], settings: TrainSettings, pictures: np.ndarray) -> Peer:
    """`bridge_ebm` itself, in the precision of `settings`, trained on uint8 `pictures` [N, H, W]."""
    network = state.network_of(settings)
    energy_fn = jax.tree_util.Partial(network.apply, variables)
    compiled_energies = jax.jit(energy_fn)

    def chain(starts: np.ndarray, steps: int, noise: float) -> np.ndarray:
        constants = contrastive.chain_settings(settings)._replace(num_steps=steps, noise=noise)
        return np.asarray(bridge_ebm.sample(jax.random.key(0), jnp.asarray(starts), energy_fn, constants))

    def make_update():
        # The step donates its state: give it copies of the weights.
        own = jax.tree.map(jnp.copy, variables)
        current = state.init_state(settings)._replace(params=own["params"], batch_stats=own["batch_stats"])
        step = train.make_train_step(settings)
        examples = data.Examples(jnp.asarray(pictures), jnp.zeros(len(pictures), jnp.int32))

        def update() -> float:
            nonlocal current
            current, metrics = step(current, examples)
            return float(metrics.loss)

        return update

    return Peer(
        f"ours_{settings.precision}",
        FLOAT32_TOLERANCE if settings.precision == "float32" else BFLOAT16_TOLERANCE,
        lambda images: np.asarray(compiled_energies(jnp.asarray(images))),
        chain,
        make_update,
    )

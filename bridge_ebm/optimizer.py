"""The optimiser of every training: Adam as Keras computes it, with a warm-up and a bound on the gradient's norm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bridge_ebm.settings import TrainSettings

Schedule = Callable[[jax.Array], jax.Array | float]

_LOWEST = 0.01  # share of the learning rate that is left after its decay


def keras_adam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Adam as Keras computes it: `eps` is added to sqrt(v) before the bias correction (Kingma and Ba, end of
    section 2).

    With optax.adam the first updates of weights with small gradients would differ by up to a few percent from the
    paper's. A schedule is called with the number of updates before this one.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        first, second = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, second)

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.nu, grads)
        base = learning_rate(state.count) if callable(learning_rate) else learning_rate
        rate = base * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def make_schedule(settings: TrainSettings) -> Schedule:
    """The learning rate as a function of the number of updates before this one: a rise over `warmup` updates, half a
    cosine down to `_LOWEST` of the rate at update `decay`, and the finish's own rate, with its own decay, from update
    `finish_after` on.
    """

    def schedule(count: jax.Array) -> jax.Array:
        rate = settings.learning_rate * jnp.minimum(1.0, (count + 1) / max(settings.warmup, 1))
        rate *= _decayed(count, settings.decay)
        if settings.finish_after == 0:
            return rate
        finish = settings.finish_learning_rate * _decayed(count - settings.finish_after, settings.finish_decay)
        return jnp.where(count < settings.finish_after, rate, finish)

    return schedule


def _decayed(count: jax.Array, updates: int) -> jax.Array | float:
    if updates == 0:
        return 1.0
    return _LOWEST + (1 - _LOWEST) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(count / updates, 0.0, 1.0)))


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The optimiser that the settings name, with the finish's own learning rate in the finish."""
    plain = settings.warmup == settings.decay == settings.finish_after == 0
    rate = settings.learning_rate if plain else make_schedule(settings)
    adam = keras_adam(rate, settings.adam_b1, settings.adam_b2)
    if settings.norm_clip == 0:
        return adam
    return optax.chain(optax.clip_by_global_norm(settings.norm_clip), adam)


def eased(result: tuple[Any, optax.OptState], easing: jax.Array | float) -> tuple[Any, optax.OptState]:
    """What an optimiser returned, as with its learning rate times `easing`: Adam's updates are linear in it."""
    updates, state = result
    return jax.tree.map(lambda update: easing * update, updates), state


def moved_average(average: Any, params: Any, decay: float) -> Any:
    """The exponential moving average of the weights, one update further; `decay` is the share of the old one kept."""
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, params)

"""What changes from update to update of a training, and what an update reports."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from bridge_ebm import energy, parallel, replay
from bridge_ebm.optimizer import make_optimizer
from bridge_ebm.settings import TrainSettings


class TrainState(NamedTuple):
    """A pytree of arrays. `average` is the moving average of `params`, or () where none is kept."""

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    opt_state: optax.OptState
    buffer: replay.ReplayBuffer

    @property
    def model_params(self) -> Any:
        """The weights that are the model: the average where there is one."""
        return self.average if jax.tree.leaves(self.average) else self.params


class Metrics(NamedTuple):
    """What an update reports, float32 scalars: the five curves of Fig. 4, the error of the gradient regression, the
    norm of the parameter gradient, how far the chains moved (`guards.travelled`), how many of them were replaced, and
    whether the update was not applied (1) for not being finite. What the objective does not have is NaN.
    """

    loss: jax.Array
    reg: jax.Array
    cdiv: jax.Array
    real: jax.Array
    fake: jax.Array
    regression: jax.Array
    gradient_norm: jax.Array
    moved: jax.Array
    replaced: jax.Array
    skipped: jax.Array


# (state, examples[, easing]): a training that diverged goes on with its learning rates times `easing`, a float32 scalar
# below 1, and alpha divided by it.
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def network_of(settings: TrainSettings, num_classes: int = 0) -> nn.Module:
    """The network of a training; `num_classes` sub-types are in the data, which a conditional one learns."""
    return energy.make_network(settings, num_classes if settings.conditional else 0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def init_state(settings: TrainSettings, num_classes: int = 0, mesh: Mesh | None = None) -> TrainState:
    """The state before the first update: initial weights, a buffer of one batch of noise (of a whole buffer where the
    chains are the finish's).
    """
    network_key, buffer_key = jax.random.split(jax.random.key(settings.seed))
    network = network_of(settings, num_classes)
    variables = energy.init_variables(network, network_key, settings.height, settings.seen_width)
    shape = (settings.height, settings.seen_width, 1)
    if settings.objective == "contrastive":
        buffer = replay.init(buffer_key, settings.buffer_size, settings.batch_size, shape, mesh)
    else:
        # Without a finish nothing is kept in it, and a state has one all the same.
        places = settings.buffer_size if settings.keeps_chains else settings.batch_size
        # Behind the places of the finish's chains are as many for the pictures that they began at.
        buffer = replay.init_places(buffer_key, 2 * places if settings.holds else places, shape, mesh)
        buffer = buffer._replace(size=jnp.full((), places, jnp.int32))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        average=jax.tree.map(jnp.copy, variables["params"]) if settings.ema else (),
        opt_state=make_optimizer(settings).init(variables["params"]),
        buffer=buffer,
    )
    if mesh is None:
        return state
    return jax.tree.map(parallel.constrain, state, _placed(state, mesh))


def state_shardings(settings: TrainSettings, num_classes: int, mesh: Mesh | None) -> Any:
    """Where each array of the state lies, a pytree like it (None without a mesh): the buffer is cut, all else whole."""
    if mesh is None:
        return None
    return _placed(jax.eval_shape(lambda: init_state(settings, num_classes)), mesh)


def _placed(state: TrainState, mesh: Mesh) -> TrainState:
    placed = jax.tree.map(lambda _: parallel.whole(mesh), state)
    return placed._replace(buffer=placed.buffer._replace(images=parallel.cut(mesh)))


def abstract_state(settings: TrainSettings, num_classes: int = 0, mesh: Mesh | None = None) -> TrainState:
    """Shape, type and place of every array of the state, to load a checkpoint into."""
    shapes = jax.eval_shape(lambda: init_state(settings, num_classes))
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, _placed(shapes, mesh)
    )

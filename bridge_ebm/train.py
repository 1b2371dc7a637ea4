"""Training: a state, and one compiled step that takes it to the next.

The step is a pure function of (state, examples): every random draw, the order of the data included, is a function of
the seed and the number of the update, so a run that is continued from a checkpoint repeats the one that was never
stopped.
"""

import jax
from jax.sharding import Mesh

from bridge_ebm import contrastive, parallel, regression
from bridge_ebm.errors import InputError
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import TrainStep, state_shardings


def updates_per_epoch(settings: TrainSettings, num_images: int) -> int:
    """Whole batches in one pass over the data (75 for the paper's 9600 images); an `InputError` if there is not one."""
    if num_images < settings.batch_size:
        raise InputError(
            f"--batch_size={settings.batch_size}: the training part of --data={settings.data} has only "
            f"{num_images} pictures; use --batch_size={num_images} or smaller"
        )
    return num_images // settings.batch_size


def check_finish(settings: TrainSettings, num_classes: int) -> None:
    """Raise an `InputError` if the finish's buffer has no place for some class: a chain of each, and of "no class"."""
    if settings.finish_after and settings.buffer_size <= num_classes:
        raise InputError(
            f"--buffer_size={settings.buffer_size}: the finish keeps chains of each of {num_classes} sub-types and of "
            f"none; use --buffer_size={num_classes + 1} or more"
        )


def make_train_step(settings: TrainSettings, num_classes: int = 0, mesh: Mesh | None = None) -> TrainStep:
    """The compiled update of the settings' objective, for data of `num_classes` sub-types, on the devices of `mesh`.

    The returned function takes (state, examples), and an `easing` after a divergence, and returns (state, Metrics). It
    donates the state: the buffer is updated in place, and the state passed in must not be used again.
    """
    if settings.objective == "contrastive":
        step = contrastive.make_step(settings, mesh)
    else:
        step = regression.make_step(settings, num_classes, mesh)
    where = None if mesh is None else (state_shardings(settings, num_classes, mesh), parallel.whole(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=where)

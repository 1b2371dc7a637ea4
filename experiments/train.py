"""Train an energy by contrastive divergence.

    python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=runs/quickstart

shows progress in about three minutes on 2 cores; --flagfile=experiments/flags/paper.cfg is the paper's own run
(days on 2 cores). --data=FOLDER trains on your pictures, one sub-folder per sub-type. Running the same command
again continues where it stopped.

In the work directory: run.cfg (a flag file that repeats the run), metrics.jsonl, TensorBoard events, checkpoints/,
samples/ (after every epoch, 10 pictures from noise and 10 from the replay buffer), curves.png (the paper's Fig. 4).
"""

from pathlib import Path

import cli
import jax
import numpy as np
from absl import flags

from bridge_ebm import data, langevin, replay
from bridge_ebm.models import Model
from bridge_ebm.plotting import plot_curves, save_png, sheet
from bridge_ebm.runs import run_training
from bridge_ebm.settings import TrainSettings
from bridge_ebm.train import TrainState
from bridge_ebm.workdir import model_settings, read_metrics

PICTURES = 10

cli.define_train_settings()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True)
MAX_UPDATES = flags.DEFINE_integer(
    "max_updates", None, "Stop after this many updates in all (default: all epochs).", lower_bound=1
)
LOG_EVERY = flags.DEFINE_integer(
    "log_every", 1, "Log every this many updates, and the last of each epoch.", lower_bound=1
)


def main() -> None:
    """Load the data, train, and say where the pictures are."""
    settings = cli.read_train_settings()
    dataset = load_data(settings)
    workdir = cli.output_folder(WORKDIR.value, "--workdir")
    sampler = jax.jit(langevin.sample, static_argnames="settings")
    drawn: list[Path] = []

    def draw_pictures(state: TrainState) -> None:
        drawn[:] = write_pictures(state, settings, workdir, sampler)

    print(
        f"{len(dataset.images)} pictures of {len(dataset.subtypes)} sub-types, {settings.height} x {settings.width}",
        flush=True,
    )
    state = run_training(settings, dataset.images, workdir, MAX_UPDATES.value, LOG_EVERY.value, draw_pictures)
    if not drawn:
        print(
            f"This run is finished: {int(state.step)} updates in {workdir}. Raise --epochs or --max_updates to go on."
        )
    else:
        print(f"{int(state.step)} updates done; run the same command again to continue.")
    print("\n".join(f"  {path}" for path in [*drawn, workdir / "curves.png"]))


def load_data(settings: TrainSettings) -> data.Dataset:
    """The part of the data set that the settings name."""
    if settings.data == "procedural":
        dataset = data.procedural(
            settings.height, settings.width, settings.recipe, settings.per_type, settings.seed, progress=True
        )
    else:
        dataset = data.load_folder(settings.data, settings.height, settings.width, progress=True)
    return data.split(dataset, settings.split)


def write_pictures(state: TrainState, settings: TrainSettings, workdir: Path, sampler) -> list[Path]:
    """Draw 10 pictures from noise and 10 from the buffer, and the curves so far; returns the paths of the two
    sheets.
    """
    model = Model(state.params, state.batch_stats, model_settings(settings))
    start_key, chain_key, pick_key = jax.random.split(
        jax.random.fold_in(jax.random.key(settings.seed + 1), state.step), 3
    )
    from_noise = sampler(chain_key, model.start(start_key, PICTURES), model.energy(), model.settings.langevin)
    picks = jax.random.randint(pick_key, (PICTURES,), 0, state.buffer.size)
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, images in (("noise", from_noise), ("buffer", replay.newest(state.buffer, picks))):
        paths.append(folder / f"step_{int(state.step):06d}_{name}.png")
        save_png(paths[-1], sheet(np.asarray(images), columns=2))
    plot_curves(workdir / "curves.png", read_metrics(workdir))
    return paths


if __name__ == "__main__":
    cli.run(main)

"""Train an energy.

    python experiments/train.py --flagfile=experiments/flags/quickstart.cfg --workdir=runs/quickstart

shows progress in about two minutes on 2 cores; --flagfile=experiments/flags/paper.cfg is the paper's own run
(days on 2 cores). --data=FOLDER trains on your pictures, one sub-folder per sub-type. Running the same command
again continues where it stopped; experiments/doctor.py --workdir=DIR says whether it is healthy, also while it runs.

In the work directory: run.cfg (a flag file that repeats the run), metrics.jsonl, TensorBoard events, checkpoints/,
samples/ (after every epoch, or --save_every updates: pictures from noise and, once chains fill it, from the replay
buffer), curves.png (Fig. 4, of what the training logs), events.jsonl (what else happened: skipped updates, returns to
an earlier checkpoint). A second training in the same directory is refused.
"""

from pathlib import Path

import cli
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from bridge_ebm import data, mirror, parallel, processes, replay
from bridge_ebm.errors import InputError
from bridge_ebm.models import Model, coarse_of
from bridge_ebm.plotting import plot_curves, save_png, sheet
from bridge_ebm.runs import run_training
from bridge_ebm.settings import TrainSettings
from bridge_ebm.state import TrainState
from bridge_ebm.train import updates_per_epoch
from bridge_ebm.workdir import model_settings, read_metrics

PICTURES = 10
PICTURES_OF_A_CLASS = 4

cli.define_train_settings()
cli.define_process_flags()
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
    cli.join_processes()
    dataset = load_data(settings)
    check_coarse_model(settings, dataset.subtypes)
    workdir = cli.output_folder(WORKDIR.value, "--workdir")
    drawn: list[Path] = []

    def draw_pictures(state: TrainState) -> None:
        drawn[:] = write_pictures(state, settings, dataset.subtypes, workdir)

    what = "halves of pictures" if settings.mirror else "pictures"
    cli.say(f"{len(dataset.images)} {what} of {len(dataset.subtypes)} sub-types, {settings.height} x {settings.width}")
    per_epoch = updates_per_epoch(settings, len(dataset.images))
    total = settings.epochs * per_epoch
    say_what_is_cut(settings, per_epoch)
    state = run_training(settings, dataset, workdir, MAX_UPDATES.value, LOG_EVERY.value, draw_pictures)
    if int(state.step) >= min(total, MAX_UPDATES.value or total):
        cli.say(
            f"This run is finished: {int(state.step)} updates in {workdir}. Raise --epochs or --max_updates to go on."
        )
    else:
        cli.say(f"{int(state.step)} updates done; run the same command again to continue.")
    if drawn:
        cli.say(*(f"  {path}" for path in [*drawn, workdir / "curves.png"]))


def load_data(settings: TrainSettings) -> data.Dataset:
    """The part of the data set that the settings name, as the network sees it."""
    if settings.data == "procedural":
        dataset = data.procedural(
            settings.height, settings.width, settings.recipe, settings.per_type, settings.seed, progress=True
        )
    else:
        dataset = data.load_folder(settings.data, settings.height, settings.width, progress=True)
    dataset = data.split(dataset, settings.split)
    seen = data.mirror_halves(dataset) if settings.mirror else dataset
    absent = [name for label, name in enumerate(seen.subtypes) if not (seen.labels == label).any()]
    if settings.conditional and absent:
        raise InputError(
            f"--conditional: of {', '.join(absent)} there is no {'mirror-symmetric ' * settings.mirror}picture in the "
            f"{settings.split} part; add some{', or use --nomirror' * settings.mirror}"
        )
    return seen


def say_what_is_cut(settings: TrainSettings, per_epoch: int) -> None:
    """Note a finish, or a fall of the learning rate, that the epochs are too few for: they count updates."""
    needed = settings.finish_after + max(settings.finish_decay, 1) if settings.finish_after else settings.decay
    if settings.epochs * per_epoch < needed:
        what = "--finish_after and --finish_decay ask" if settings.finish_after else "--decay asks"
        cli.say(
            f"note: {what} for {needed} updates, these pictures give {settings.epochs * per_epoch} (--epochs="
            f"{settings.epochs} of {per_epoch}); use --epochs={-(-needed // per_epoch)}, or ask for fewer"
        )


def check_coarse_model(settings: TrainSettings, subtypes: tuple[str, ...]) -> None:
    """Raise an `InputError` if the model that is to begin the chains does not fit, before anything is trained."""
    small = coarse_of(model_settings(settings, subtypes))
    if small is not None and small.height != settings.coarse_height:
        raise InputError(
            f"--coarse_height={settings.coarse_height}: --coarse_model={settings.coarse_model} draws pictures "
            f"{small.height} high; use that height"
        )


def write_pictures(state: TrainState, settings: TrainSettings, subtypes: tuple[str, ...], workdir: Path) -> list[Path]:
    """Draw pictures from noise (of every sub-type that the network knows, or 10) and 10 from the buffer once chains
    fill it, and the curves so far; returns the paths of the sheets.

    Every process draws them, for itself and in the same time; the first writes them.
    """
    params, batch_stats = parallel.local_copy((state.model_params, state.batch_stats))
    described = model_settings(settings, subtypes)
    model = Model(params, batch_stats, described, coarse_of(described))
    key, pick_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed + 1), int(state.step)))
    from_buffer = {}
    if settings.objective == "contrastive" or 0 < settings.finish_after < int(state.step):
        picks = np.asarray(jax.random.randint(pick_key, (PICTURES,), 0, int(state.buffer.size)))
        chains = parallel.local_copy(replay.newest_on_all(state.buffer, picks))
        from_buffer["buffer"] = mirror.unfold(chains) if settings.mirror else chains
    classes = [*model.settings.subtypes, None] if model.settings.subtypes else [None]
    each = PICTURES if classes == [None] else PICTURES_OF_A_CLASS
    sheets = {"noise": jnp.concatenate([model.draw(key, each, subtype) for subtype in classes]), **from_buffer}
    folder = workdir / "samples"
    paths = [folder / f"step_{int(state.step):06d}_{name}.png" for name in sheets]
    if not processes.is_first():
        return paths
    folder.mkdir(exist_ok=True)
    for path, images in zip(paths, sheets.values(), strict=True):
        save_png(path, sheet(np.asarray(images), columns=2 if len(images) == PICTURES else PICTURES_OF_A_CLASS))
    plot_curves(workdir / "curves.png", read_metrics(workdir))
    return paths


if __name__ == "__main__":
    cli.run(main)

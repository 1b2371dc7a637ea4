"""The paper's figures 1 to 6.

    python experiments/figures.py --out=runs/figures --model=runs/quickstart --designs=runs/discover

takes about a minute on 2 cores and writes, into the folder:

fig1.png   the Boltzmann law of a column of air, by our Langevin sampler beside the closed form
fig2.png   the energy of the model over a plane through three bridges, with chains on it
fig3.png   the eight sub-types
fig4.png   the curves of the training (only where --model is a training's work directory)
fig5.png   chains of the model from noise, at updates 0, 900 and 1999
fig6.png   the best new types of the folder that discover.py wrote (--designs); without one, the best of 64 candidates
           that a model of sub-types makes for it
"""

from pathlib import Path

import cli
import jax
import numpy as np
from absl import flags

import bridge_ebm
from bridge_ebm import bridges, data, discovery, evaluation, figures, models, plans
from bridge_ebm.compose import energies_under
from bridge_ebm.errors import InputError
from bridge_ebm.plotting import plot_curves, plot_frames
from bridge_ebm.studio import open_studio
from bridge_ebm.workdir import read_metrics

MODEL = flags.DEFINE_string("model", None, "A shipped model's name, a model directory, or a training's work directory.")
DESIGNS = flags.DEFINE_string("designs", None, "A folder that discover.py wrote, whose best designs Fig. 6 shows.")
OUT = flags.DEFINE_string("out", "runs/figures", "Folder for the figures.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the chains in the figures.", lower_bound=0, upper_bound=cli.MOST_SEED)

MOLECULES = 8000
CORNERS = ("through_arch", "fan_cable_stayed", "vertical_suspension")  # of Fig. 2: one of each family but the beams
CORNER_WIDTH = 7  # their member width, of 0 (thin) to 15
FRAMES = (0, 900, 1999)
STEPS = 2000
CHAINS = 4
NEW_TYPES = 12  # in Fig. 6
CANDIDATES = 64  # made for it where no designs are given


def main() -> None:
    """Draw the figures of the flags, those that need no model first."""
    asked = model_or_none(MODEL.value)
    model = None if asked is None else bridge_ebm.load_model(asked)
    designs = None if DESIGNS.value is None else read_designs(Path(DESIGNS.value).expanduser())
    out = cli.output_folder(OUT.value)
    gas_key, landscape_key, chain_key = jax.random.split(jax.random.key(SEED.value), 3)
    heights = figures.gas_heights(gas_key, MOLECULES)
    figures.draw_gas(out / "fig1.png", heights)
    print(
        f"{out / 'fig1.png'}: scale height {figures.fit_scale_height(heights) / 1000:.3f} km, exact "
        f"{figures.SCALE_HEIGHT / 1000:.3f} km; distance from the law {figures.distance_from_law(heights):.4f}",
        flush=True,
    )
    figures.draw_subtypes(out / "fig3.png")
    print(f"{out / 'fig3.png'}: the eight sub-types", flush=True)
    write_designs(out / "fig6.png", designs, asked, model)
    if model is None or asked is None:
        print("fig2.png, fig4.png, fig5.png: need --model=DIR, and no model is shipped yet")
        return
    write_landscape(out / "fig2.png", landscape_key, model)
    write_curves(out / "fig4.png", asked)
    write_trajectory(out / "fig5.png", chain_key, model)


def model_or_none(asked: str | None) -> str | None:
    """The model that --model asks for or the first shipped one; None where there is neither."""
    try:
        return cli.model_or_default(asked)
    except InputError:
        return None


def write_landscape(path: Path, key: jax.Array, model: bridge_ebm.Model) -> None:
    """Fig. 2: the model's energy over the plane through three of the paper's pictures."""
    renders = [bridges.render(name, CORNER_WIDTH, model.height, model.width) for name in CORNERS]
    drawn = figures.landscape(key, data.to_unit(np.stack(renders)), model.energy(), model.settings.langevin)
    figures.draw_landscape(path, drawn, [figures.TITLES[name] for name in CORNERS])
    start, end = drawn.chain_energies.mean(axis=1)
    low, high = drawn.energies.min(), drawn.energies.max()
    print(f"{path}: energies {low:.2f} to {high:.2f}, chains from {start:.2f} to {end:.2f}", flush=True)


def not_drawn(path: Path, why: str) -> None:
    """Say why a figure is missing, and that one from before, perhaps of another model, is still there."""
    print(f"{path}: not drawn, {why}{'; the one there is of an earlier run' * path.exists()}", flush=True)


def write_curves(path: Path, asked: str) -> None:
    """Fig. 4, where the model is a work directory that has its metrics."""
    rows = read_metrics(Path(asked).expanduser())
    if not rows:
        not_drawn(path, f"--model={asked} has no metrics.jsonl (a training's work directory has)")
        return
    plot_curves(path, rows)
    print(f"{path}: {rows[-1]['step']} updates, {rows[-1]['epoch']} epochs", flush=True)


def write_trajectory(path: Path, key: jax.Array, model: bridge_ebm.Model) -> None:
    """Fig. 5: chains from noise, each frame under its energy."""
    start_key, chain_key = jax.random.split(key)
    settings = model.settings.langevin._replace(num_steps=STEPS)
    energy_fn = model.energy()
    result = bridge_ebm.trajectory(chain_key, model.noise(start_key, CHAINS), energy_fn, settings, FRAMES)
    energies = np.stack([np.asarray(energies_under(energy_fn, kept)) for kept in result.frames])
    plot_frames(path, np.asarray(result.frames), energies, [f"update {frame}" for frame in FRAMES])
    print(f"{path}: mean energy at updates {FRAMES}: {energies.mean(axis=1).round(3).tolist()}")


def read_designs(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [N, H, W] and names of the best designs that discover.py ranked in `folder`."""
    records = [record for record in discovery.read_lines(folder / discovery.DESIGNS) if record["rank"] is not None]
    if not records:
        raise InputError(f"--designs={folder}: no designs in it; run experiments/discover.py --out={folder} first")
    best = records[:NEW_TYPES]
    return discovery.read_pictures(folder, best), [record["name"] for record in best]


def make_designs(folder: Path, name: str, model: bridge_ebm.Model) -> tuple[np.ndarray, list[str]] | None:
    """The best designs of a few candidates of the model of this name, made in `folder`; None where none is one."""
    studio = open_studio(model)
    real = evaluation.training_skeletons(models.training_of(name))
    mix = plans.possible(plans.parse_mix([]), plans.Wishes(), model.settings.subtypes)
    request = discovery.Request(SEED.value, mix, plans.Wishes())
    discovery.claim(folder, model, request, None)
    groups = discovery.discover(folder, studio, request, CANDIDATES, real)
    counts = discovery.write_results(folder, [record for group in groups for record in group])
    return read_designs(folder) if counts["all"]["distinct"] else None


def write_designs(
    path: Path, designs: tuple[np.ndarray, list[str]] | None, asked: str | None, model: bridge_ebm.Model | None
) -> None:
    """Fig. 6: the designs read, or else those that the model makes. What forbids these costs no other figure."""
    if designs is None and model is not None and asked is not None and model.settings.subtypes:
        try:
            designs = make_designs(cli.output_folder(str(path.with_name("designs"))), asked, model)
        except InputError as error:
            not_drawn(path, str(error))
            return
    if designs is None:
        not_drawn(path, "it needs --designs=DIR of discover.py, or a --model that knows sub-types")
        return
    figures.draw_designs(path, *designs)
    print(f"{path}: {len(designs[1])} new types, {designs[1][0]} the first", flush=True)


if __name__ == "__main__":
    cli.run(main)
